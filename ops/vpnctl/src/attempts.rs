//! Login attempts, and why they failed.

use anyhow::Result;
use api::v1::attempt_service_client::AttemptServiceClient;
use api::v1::{Attempt, AttemptOutcome, ListAttemptsRequest, WatchAttemptsRequest};
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;

use crate::cli::AttemptsArguments;
use crate::output::{Output, moment};

/// Shows attempts.
pub(crate) async fn show(channel: Channel, arguments: &AttemptsArguments, output: &Output) -> Result<()> {
    let mut client = AttemptServiceClient::new(channel);
    let since = arguments.since.as_deref().map(moment).transpose()?;
    let mut attempts: Vec<Attempt> = Vec::new();
    let mut page_token = String::new();
    let limit = usize::try_from(arguments.limit)?;
    loop {
        let request = ListAttemptsRequest {
            tenant: arguments.tenant.clone().unwrap_or_default(),
            page_size: arguments.limit.min(500),
            page_token,
            address: arguments.address.clone().unwrap_or_default(),
            identity: arguments.identity.clone().unwrap_or_default(),
            since,
            until: None,
            failed_only: arguments.failed,
        };
        let answer = client.list(request).await?.into_inner();
        attempts.extend(answer.attempts);
        page_token = answer.next_page_token;
        if page_token.is_empty() || attempts.len() >= limit {
            break;
        }
    }
    attempts.truncate(limit);
    if !output.is_table() {
        output.value(&attempts)?;
    } else if attempts.is_empty() {
        eprintln!("no attempts");
    } else {
        for attempt in &attempts {
            output.line(&words(attempt))?;
        }
    }
    if arguments.watch {
        watch(&mut client, arguments, output).await
    } else {
        Ok(())
    }
}

async fn watch(
    client: &mut AttemptServiceClient<Channel>,
    arguments: &AttemptsArguments,
    output: &Output,
) -> Result<()> {
    let request = WatchAttemptsRequest {
        tenant: arguments.tenant.clone().unwrap_or_default(),
        failed_only: arguments.failed,
    };
    let mut stream = client.watch(request).await?.into_inner();
    while let Some(attempt) = stream.next().await {
        let attempt = attempt?;
        if output.is_table() {
            output.line(&words(&attempt))?
        } else {
            output.item(&attempt)?
        }
    }
    Ok(())
}

/// An attempt as a short paragraph: the outcome first, then what led to it, then what to do.
fn words(attempt: &Attempt) -> String {
    let time = attempt
        .time
        .as_ref()
        .map(api::time::to_rfc3339)
        .unwrap_or_default();
    let who = if attempt.peer_id.is_empty() {
        "an unknown peer"
    } else {
        &attempt.peer_id
    };
    let tenant = if attempt.tenant.is_empty() {
        "no tenant"
    } else {
        &attempt.tenant
    };
    let ok = attempt.outcome() == AttemptOutcome::Established;
    let outcome = if ok { "established" } else { "FAILED" };
    let mut lines = vec![format!(
        "{time}  {outcome}  {who} from {} → {tenant}",
        attempt.remote_address
    )];
    if !attempt.connection.is_empty() {
        lines[0] += &format!(" ({})", attempt.connection);
    }
    let mut detail = |label: &str, text: &str| {
        if !text.is_empty() {
            lines.push(format!("    {label:<12}{text}"));
        }
    };
    if !ok {
        detail("why", &attempt.reason);
        detail("told peer", &attempt.notify);
        detail("difference", &attempt.proposal_difference);
        if attempt.accepted_proposal.is_empty() {
            detail("offered", &attempt.offered_proposals.join(" | "));
        }
        detail("certificate", &attempt.certificate_verdict);
        for candidate in attempt.candidates.iter().filter(|c| !c.chosen) {
            detail(
                "not",
                &format!(
                    "{}/{}: {}",
                    candidate.tenant, candidate.connection, candidate.reason
                ),
            );
        }
        detail("likely fix", &attempt.likely_fix);
    } else {
        detail("suite", &attempt.accepted_proposal);
        detail("session", &attempt.session_id);
    }
    detail("nat", &attempt.nat);
    let steps: Vec<_> = attempt
        .steps
        .iter()
        .map(|s| format!("{} {:.1} ms", s.name, s.micros as f64 / 1000.0))
        .collect();
    detail("steps", &steps.join(", "));
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_says_why_and_what_to_do() {
        let attempt = Attempt {
            peer_id: "alice@corp.example".into(),
            remote_address: "192.0.2.2:500".into(),
            outcome: AttemptOutcome::Failed.into(),
            reason: "the pre-shared key differs".into(),
            likely_fix: "set the same key on both sides".into(),
            ..Attempt::default()
        };
        let text = words(&attempt);
        for part in [
            "FAILED",
            "alice@corp.example",
            "192.0.2.2:500",
            "the pre-shared key differs",
            "set the same key",
        ] {
            assert!(text.contains(part), "{text}");
        }
    }
}
