//! `loadtest steady`: users that stay for a whole run, on real sockets, in one loop of one thread.
//!
//! ```text
//!            timers (heap) ─┐
//!   sockets (epoll) ────────┼─► Seat 0..N ─► Monitor ─► Record ─► table, JSON, HTML, SVG
//!   orders (eventfd) ───────┘     login, liveness, rekeys, packets, new logins
//!
//!   Run ──quit, signal or --seconds──► Grace: late answers ──► Close: log out ──► report
//! ```

mod runner;
mod seat;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ike::{Lifetime, Timing};
use ip::IpNet;

use self::runner::Runner;
use crate::cli;
use crate::control::Control;
use crate::inner::Service;
use crate::output;
use crate::plan::{Plan, Traffic};
use crate::run::own_address;

pub use seat::Seat;

/// Own addresses taken from one prefix.
const MAX_LOCAL: usize = 65_536;
/// Runs the test and writes its reports. False if a user lost its tunnel, or silence was too long.
///
/// # Errors
/// If it cannot be run at all.
pub fn steady(options: &cli::Steady) -> Result<bool> {
    let control = Control::start(options.watch.control.as_deref())?;
    let mut runner = Runner::new(options, control)?;
    let record = runner.run()?;
    let success = record.is_success(options.watch.max_silence_ms);
    output::write(&record, &options.watch, success)?;
    if let Some(request) = runner.asked_to_quit.take() {
        request.answer(&serde_json::json!({ "ok": true, "success": success, "marks": record.reports() }));
    }
    Ok(success)
}

/// The plans of all users, one for each gateway.
fn plans(options: &cli::Steady) -> Result<Vec<Arc<Plan>>> {
    ensure!(options.users > 0, "--users 0: nothing to do");
    ensure!(options.sample <= options.users, "--sample is more than --users");
    ensure!(options.rate >= 0.0, "--rate must not be negative");
    let traffic = match options.target.filter(|_| options.sample > 0) {
        Some(target) => {
            let service = Service::Udp(options.echo_port);
            Some(Traffic::new(target, service, options.size, options.pps)?)
        }
        None => None,
    };
    let seconds = |value: f64, name: &str| {
        let time = Duration::try_from_secs_f64(value).with_context(|| format!("--{name} {value}"))?;
        anyhow::Ok((!time.is_zero()).then_some(time))
    };
    let lifetime = |soft| Lifetime {
        soft,
        ..Lifetime::default()
    };
    let timing = Timing {
        retransmit_base: seconds(options.retransmit_base, "retransmit-base")?
            .context("--retransmit-base must be above 0")?,
        retransmit_factor: 2.0,
        retransmit_tries: options.retransmit_tries,
        ..Timing::default()
    };
    let mut plans = Plan::each(&options.identity)?;
    for plan in &mut plans {
        plan.traffic = traffic;
        plan.timing = timing;
        plan.liveness = seconds(options.liveness, "liveness")?;
        plan.ike_lifetime = lifetime(seconds(options.rekey_ike, "rekey-ike")?);
        plan.child_lifetime = lifetime(seconds(options.rekey_child, "rekey-child")?);
    }
    Ok(plans.into_iter().map(Arc::new).collect())
}

/// The own addresses for one gateway.
fn own_addresses(options: &cli::Steady, gateway: IpAddr) -> Result<Vec<IpAddr>> {
    let mut own = Vec::new();
    for text in &options.local {
        match text.parse::<IpAddr>() {
            Ok(address) => own.push(address),
            Err(_) => {
                let net: IpNet = text.parse().with_context(|| format!("--local {text}"))?;
                own.extend(net.hosts().take(MAX_LOCAL));
            }
        }
    }
    own.retain(|address| address.is_ipv4() == gateway.is_ipv4());
    if options.local.is_empty() {
        own.push(own_address(gateway)?);
    }
    ensure!(
        !own.is_empty(),
        "--local has no address of the family of {gateway}"
    );
    Ok(own)
}
