//! How the members are: versions, leadership, size, alarms.

use std::time::{Duration, Instant};

use tokio::time::timeout;

use super::fault::Fault;
use super::members::Members;
use super::version_warning;

/// A member of the cluster, as it answers.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MemberStatus {
    /// The endpoint, as in the settings.
    pub endpoint: String,
    /// Its version; `None`: it does not answer.
    pub version: Option<String>,
    /// Whether it leads.
    pub leader: bool,
    /// Octets of its database.
    pub database_octets: u64,
    /// How long its answer took.
    pub latency: Duration,
    /// What is wrong, in words: no answer, alarms, known faults of its version.
    pub warnings: Vec<String>,
}

/// Asks all members at once.
pub(super) async fn all(members: &Members) -> Vec<MemberStatus> {
    futures::future::join_all((0..members.len()).map(|index| one(members, index))).await
}

async fn one(members: &Members, index: usize) -> MemberStatus {
    let mut member = MemberStatus {
        endpoint: members.endpoint(index).to_owned(),
        version: None,
        leader: false,
        database_octets: 0,
        latency: Duration::ZERO,
        warnings: Vec::new(),
    };
    let asked = Instant::now();
    let status = async {
        let mut client = members.client(index).await?;
        client.status().await.map_err(|error| Fault::of(&error))
    };
    let status = timeout(members.settings.attempt_timeout, status).await;
    member.latency = asked.elapsed();
    match status {
        Ok(Ok(status)) => {
            member.version = Some(status.version().to_owned());
            let id = status.header().map(etcd_client::ResponseHeader::member_id);
            member.leader = id == Some(status.leader()) && status.leader() != 0;
            member.database_octets = status.db_size().unsigned_abs();
            member.warnings.extend(version_warning(status.version()));
            let reports = status.errors().iter().map(|error| format!("reports {error}"));
            member.warnings.extend(reports);
        }
        Ok(Err(fault)) => member.warnings.push(format!("does not answer: {}", fault.reason)),
        Err(_) => member.warnings.push("does not answer in time".to_owned()),
    }
    member
}

/// What is wrong when the store is opened; begins with a member that answers.
pub(super) async fn at_start(members: &Members) -> Vec<String> {
    let all = all(members).await;
    if let Some(first) = all.iter().position(|member| member.version.is_some()) {
        (0..first).for_each(|index| members.leave(index));
    }
    all.iter()
        .flat_map(|member| {
            let warnings = member.warnings.iter();
            warnings.map(|warning| format!("{}: {warning}", member.endpoint))
        })
        .collect()
}
