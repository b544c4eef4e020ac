//! The cluster: status, orders, keys, events.

pub(crate) mod arguments;
mod files;

use anyhow::Result;
use api::v1::cluster_service_client::ClusterServiceClient;
use api::v1::{
    ClusterEvent, ClusterNode, ClusterOrderResponse, ClusterSlot, ClusterStatus, ClusterStatusRequest,
    DrainRequest, ForgetRequest, JoinRequest, LeaveRequest, MoveRequest, RotateKeysRequest, UndrainRequest,
    WatchClusterEventsRequest,
};
use tokio_stream::StreamExt as _;
use tonic::transport::Channel;

use crate::output::{Output, ago, octets, table};
use arguments::{ClusterCommand, RotateKeysArguments, SlotsArguments};

/// No lease lasts so long, in milliseconds: the node forwards for ever.
const FOR_EVER: i64 = 1 << 40;

type Client = ClusterServiceClient<Channel>;

/// Carries a command out.
pub(crate) async fn run(channel: Channel, command: &ClusterCommand, output: &Output) -> Result<()> {
    let mut client = ClusterServiceClient::new(channel);
    let name = |node: &Option<String>| node.clone().unwrap_or_default();
    let answer = match command {
        ClusterCommand::Status => return status(&mut client, output).await,
        ClusterCommand::Slots(arguments) => return slots(&mut client, arguments, output).await,
        ClusterCommand::Backup(arguments) => return files::backup(&mut client, arguments).await,
        ClusterCommand::Restore(arguments) => return files::restore(&mut client, arguments, output).await,
        ClusterCommand::RotateKeys(arguments) => return rotate_keys(&mut client, arguments, output).await,
        ClusterCommand::Events => return events(&mut client, output).await,
        ClusterCommand::Drain(arguments) => {
            let (wait, timeout_secs) = arguments.node.wait.request();
            let node = name(&arguments.node.node);
            let request = DrainRequest {
                node,
                wait,
                timeout_secs,
                redirect: arguments.redirect.clone(),
            };
            client.drain(request).await?
        }
        ClusterCommand::Leave(arguments) => {
            let (wait, timeout_secs) = arguments.wait.request();
            let node = name(&arguments.node);
            let request = LeaveRequest {
                node,
                wait,
                timeout_secs,
            };
            client.leave(request).await?
        }
        ClusterCommand::Move(arguments) => {
            let (wait, timeout_secs) = arguments.wait.request();
            let request = MoveRequest {
                slot: arguments.slot,
                to: arguments.to.clone(),
                wait,
                timeout_secs,
            };
            client.r#move(request).await?
        }
        ClusterCommand::Undrain(arguments) => {
            let node = name(&arguments.node);
            client.undrain(UndrainRequest { node }).await?
        }
        ClusterCommand::Join(arguments) => {
            let node = name(&arguments.node);
            client.join(JoinRequest { node }).await?
        }
        ClusterCommand::Forget { node } => client.forget(ForgetRequest { node: node.clone() }).await?,
    };
    ordered(&answer.into_inner(), output)
}

fn ordered(answer: &ClusterOrderResponse, output: &Output) -> Result<()> {
    if !output.is_table() {
        return output.value(answer);
    }
    output.line(if answer.detail.is_empty() {
        "done"
    } else {
        &answer.detail
    })
}

async fn ask(client: &mut Client) -> Result<ClusterStatus> {
    Ok(client.status(ClusterStatusRequest {}).await?.into_inner())
}

async fn status(client: &mut Client, output: &Output) -> Result<()> {
    let status = ask(client).await?;
    if !output.is_table() {
        return output.value(&status);
    }
    output.line(&headline(&status))?;
    let head = [
        "NODE",
        "STATE",
        "HEARD",
        "ETCD",
        "SERVICE LINK",
        "SLOTS",
        "UP",
        "VERSION",
    ];
    let rows = status.nodes.iter().map(|node| node_row(&status, node)).collect();
    output.line(&format!("\n{}", table(&head, rows)))?;
    let rows = status.slots.iter().map(slot_row).collect();
    output.line(&format!("\n{}", table(SLOT_HEAD, rows)))?;
    if let Some(etcd) = &status.etcd {
        let rows = etcd.members.iter().map(|member| {
            vec![
                member.endpoint.clone(),
                match (member.reachable, member.leader) {
                    (false, _) => "no answer".to_owned(),
                    (true, true) => "leader".to_owned(),
                    (true, false) => "up".to_owned(),
                },
                or_dash(&member.version),
                octets(member.database_octets),
                millis(member.latency_us),
            ]
        });
        let head = ["ETCD MEMBER", "STATE", "VERSION", "SIZE", "LATENCY"];
        output.line(&format!("\n{}", table(&head, rows.collect())))?;
        output.line(&format!(
            "\nrevision {}, last write {}",
            etcd.revision,
            millis(etcd.write_latency_us)
        ))?;
        for member in &etcd.members {
            for warning in &member.warnings {
                eprintln!("warning: {}: {warning}", member.endpoint);
            }
        }
    }
    for warning in &status.warnings {
        let told = status.etcd.iter().flat_map(|etcd| &etcd.members).any(|member| {
            let rest = warning.strip_prefix(member.endpoint.as_str());
            let rest = rest.map(|rest| rest.trim_start_matches([':', ' ']));
            rest.is_some_and(|rest| member.warnings.iter().any(|told| told == rest))
        });
        if !told {
            eprintln!("warning: {warning}");
        }
    }
    Ok(())
}

/// The cluster in one or two sentences.
fn headline(status: &ClusterStatus) -> String {
    let lease = match status.lease_slack_ms {
        slack if slack > FOR_EVER => "forwards without a deadline".to_owned(),
        slack if slack >= 0 => format!("may forward for {slack} ms more without etcd"),
        _ => "does not forward: its lease has run out".to_owned(),
    };
    let lag = match status.replica_lag_ms {
        0 => "everything replicated".to_owned(),
        lag => format!("replication {lag} ms behind"),
    };
    let mut text = format!("node {}: epoch {}, {lease}, {lag}", status.node, status.epoch);
    if status.fail_static {
        text.push_str(
            "\nFAIL-STATIC: no node reaches etcd; tunnels go on where they are, changes are not replicated",
        );
    }
    text
}

fn node_row(status: &ClusterStatus, node: &ClusterNode) -> Vec<String> {
    let this = node.name == status.node;
    let mut state = api::words::word(&node.state());
    if node.drained {
        state = "drained".to_owned();
    }
    if !node.same_slot_table && !node.incarnation.is_empty() {
        state.push_str(", other slots configured");
    }
    if !node.member && node.state() != api::v1::ClusterNodeState::Left {
        state.push_str(", not joined");
    }
    let slots: Vec<String> = node.slots.iter().map(u32::to_string).collect();
    vec![
        node.name.clone(),
        state,
        match node.last_heard_ms {
            _ if this => "this node".to_owned(),
            Some(heard) => format!("{heard} ms ago"),
            None => "never".to_owned(),
        },
        if node.etcd_reachable { "yes" } else { "NO" }.to_owned(),
        if node.service_link_up { "up" } else { "DOWN" }.to_owned(),
        or_dash(&slots.join(",")),
        ago(node.start_time.as_ref()),
        or_dash(&node.version),
    ]
}

const SLOT_HEAD: &[&str] = &[
    "SLOT",
    "OWNER",
    "GENERATION",
    "STATE",
    "SESSIONS",
    "RECORDS",
    "SINCE",
    "SERVICE ADDRESSES",
];

fn slot_row(slot: &ClusterSlot) -> Vec<String> {
    let mut state = api::words::word(&slot.state()).replace('_', " ");
    if !slot.wish.is_empty() && slot.wish != slot.owner {
        state.push_str(&format!(" → {}", slot.wish));
    }
    let count = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
    vec![
        slot.id.to_string(),
        or_dash(&slot.owner),
        slot.generation.to_string(),
        state,
        count(slot.sessions),
        count(slot.records),
        ago(slot.since_time.as_ref()),
        or_dash(&slot.service_addresses.join(", ")),
    ]
}

async fn slots(client: &mut Client, arguments: &SlotsArguments, output: &Output) -> Result<()> {
    let mut slots = ask(client).await?.slots;
    if let Some(node) = &arguments.node {
        slots.retain(|slot| slot.owner == *node);
    }
    if let Some(id) = arguments.slot {
        let Some(slot) = slots.into_iter().find(|slot| slot.id == id) else {
            anyhow::bail!("there is no slot {id}");
        };
        if output.is_table() {
            return output.raw(serde_yaml_ng::to_string(&slot)?.as_bytes());
        }
        return output.value(&slot);
    }
    if !output.is_table() {
        return output.value(&slots);
    }
    output.table(SLOT_HEAD, slots.iter().map(slot_row).collect())?;
    let blocks: Vec<Vec<String>> = slots
        .iter()
        .flat_map(|slot| slot.pool_blocks.iter().map(move |block| (slot, block)))
        .map(|(slot, block)| {
            vec![
                slot.id.to_string(),
                or_dash(&slot.owner),
                format!("{}/{}", block.tenant, block.pool),
                block.prefixes.join(", "),
            ]
        })
        .collect();
    if blocks.is_empty() {
        return Ok(());
    }
    output.line(&format!(
        "\n{}",
        table(&["SLOT", "ROUTE TO", "POOL", "PREFIXES"], blocks)
    ))
}

async fn rotate_keys(client: &mut Client, arguments: &RotateKeysArguments, output: &Output) -> Result<()> {
    let request = RotateKeysRequest {
        slots: arguments.slots.clone(),
        wrap_only: arguments.wrap_only,
    };
    let answer = client.rotate_keys(request).await?.into_inner();
    if !output.is_table() {
        return output.value(&answer);
    }
    let rows = answer.slots.iter().map(|slot| {
        vec![
            slot.slot.to_string(),
            slot.data_key.to_string(),
            slot.records.to_string(),
        ]
    });
    output.table(&["SLOT", "DATA KEY", "RECORDS WRITTEN"], rows.collect())?;
    eprintln!("wrapped by the cluster key {}", answer.cluster_key);
    Ok(())
}

async fn events(client: &mut Client, output: &Output) -> Result<()> {
    let mut stream = client
        .watch_events(WatchClusterEventsRequest {})
        .await?
        .into_inner();
    while let Some(event) = stream.next().await {
        let event = event?;
        if output.is_table() {
            output.line(&event_line(&event))?;
        } else {
            output.item(&event)?;
        }
    }
    Ok(())
}

fn event_line(event: &ClusterEvent) -> String {
    let time = event.time.as_ref().map(api::time::to_rfc3339);
    format!(
        "{}  {}  {:<16}  {}",
        time.unwrap_or_default(),
        event.node,
        event.kind,
        event.text
    )
}

fn or_dash(text: &str) -> String {
    if text.is_empty() {
        "-".to_owned()
    } else {
        text.to_owned()
    }
}

fn millis(micros: u64) -> String {
    if micros == 0 {
        return "-".to_owned();
    }
    format!("{:.1} ms", micros as f64 / 1_000.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_headline_says_what_matters_first() {
        let status = ClusterStatus {
            node: "a".into(),
            epoch: 2,
            lease_slack_ms: 1_400,
            ..Default::default()
        };
        assert_eq!(
            headline(&status),
            "node a: epoch 2, may forward for 1400 ms more without etcd, everything replicated"
        );
        let status = ClusterStatus {
            lease_slack_ms: -1,
            replica_lag_ms: 70,
            fail_static: true,
            ..status
        };
        let text = headline(&status);
        assert!(text.contains("its lease has run out") && text.contains("replication 70 ms behind"));
        assert!(text.contains("FAIL-STATIC"), "{text}");
    }

    #[test]
    fn a_slot_on_its_way_says_where_to() {
        let slot = ClusterSlot {
            id: 3,
            owner: "a".into(),
            state: api::v1::ClusterSlotState::HandingOver.into(),
            wish: "b".into(),
            ..Default::default()
        };
        let row = slot_row(&slot);
        assert_eq!(row[3], "handing over → b");
        assert_eq!(row[4], "-", "only the owner knows");
    }
}
