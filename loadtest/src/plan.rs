//! What all users of a test have in common: the checked form of the command line.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use ike::config::ConfigRequest;
use ike::wire::proposal::{ChildProposal, IkeProposal};
use ike::{ChildPolicy, Identity, InitiatorConfig, Lifetime, RekeyPolicy, Timing};
use ip::Selector;

use crate::cli;
use crate::credentials::Credentials;
use crate::probe::Service;

/// Largest inner packet that is sent (octets).
const MAX_SIZE: usize = 9000;

/// A test.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The gateway's address.
    pub gateway: IpAddr,
    /// Its port for the first messages.
    pub ike_port: u16,
    /// Its port for everything else.
    pub nat_port: u16,
    /// Identity of a user: {user} and {domain} are replaced.
    pub id: String,
    /// Domain of the identities.
    pub domain: String,
    /// The identity that the gateway must prove to have.
    pub remote_id: Option<Identity>,
    /// Proofs of identity.
    pub credentials: Credentials,
    /// IKE proposals.
    pub ike: Vec<IkeProposal>,
    /// ESP proposals.
    pub esp: Vec<ChildProposal>,
    /// Networks behind the gateway.
    pub remote_ts: Vec<Selector>,
    /// What is asked for.
    pub request: ConfigRequest,
    /// Retransmissions.
    pub timing: Timing,
    /// What is sent through the tunnel, if anything.
    pub traffic: Option<Traffic>,
}

/// The packets of one user.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Traffic {
    /// Who answers.
    pub target: IpAddr,
    /// To what.
    pub service: Service,
    /// Octets of an inner packet.
    pub size: usize,
    /// From one packet to the next.
    pub interval: Duration,
}

impl Plan {
    /// Reads the part that concerns identities and negotiation.
    ///
    /// # Errors
    /// What does not parse, or a file that cannot be read.
    pub fn new(options: &cli::Identity) -> Result<Self> {
        let parse_ts = |text: &String| {
            text.parse::<Selector>()
                .with_context(|| format!("--remote-ts {text}"))
        };
        let remote_id = options
            .remote_id
            .as_deref()
            .map(str::parse)
            .transpose()
            .context("--remote-id")?;
        let request = if options.ipv6 {
            ConfigRequest::both()
        } else {
            ConfigRequest::ipv4()
        };
        Ok(Self {
            gateway: options.gateway,
            ike_port: options.ike_port,
            nat_port: options.nat_port,
            id: options.id.clone(),
            domain: options.domain.clone(),
            remote_id,
            credentials: Credentials::new(options)?,
            ike: vec![options.ike.parse().context("--ike")?],
            esp: vec![options.esp.parse().context("--esp")?],
            remote_ts: options.remote_ts.iter().map(parse_ts).collect::<Result<_>>()?,
            request,
            timing: Timing::default(),
            traffic: None,
        })
    }

    /// As [`Plan::new`], with the traffic of `connect`.
    ///
    /// # Errors
    /// As there, or traffic that makes no sense.
    pub fn connect(options: &cli::Connect) -> Result<Self> {
        let mut plan = Self::new(&options.identity)?;
        ensure!(options.users > 0, "--users 0: nothing to do");
        ensure!(options.rate >= 0.0, "--rate must not be negative");
        if options.traffic > 0 || (options.hold && options.target.is_some()) {
            let target = options.target.context("--traffic needs --target")?;
            let service = match options.probe {
                cli::ProbeKind::Icmp => Service::Icmp,
                cli::ProbeKind::Udp => Service::Udp(options.echo_port),
            };
            let least = service.least_size(target);
            ensure!(
                (least..=MAX_SIZE).contains(&options.size),
                "--size {}: must be {least} to {MAX_SIZE} octets",
                options.size
            );
            ensure!(
                options.pps > 0.0 && options.pps <= 1e6,
                "--pps must be above 0 and at most 1000000"
            );
            let interval = Duration::from_secs_f64(1.0 / options.pps);
            plan.traffic = Some(Traffic {
                target,
                service,
                size: options.size,
                interval,
            });
        }
        Ok(plan)
    }

    /// The identity of a user.
    ///
    /// # Errors
    /// If the pattern gives no identity.
    pub fn identity(&self, number: u32) -> Result<Identity> {
        let text = fill(&self.id, number).replace("{domain}", &self.domain);
        text.parse().with_context(|| format!("identity {text}"))
    }

    /// The configuration of every user's IKE SA.
    #[must_use]
    pub fn initiator(&self) -> InitiatorConfig {
        let mut ts_local = vec![Selector::ANY_V4];
        if self.request.v6.is_some() {
            ts_local.push(Selector::ANY_V6);
        }
        let child = ChildPolicy {
            proposals: self.esp.clone(),
            ts_local,
            ts_remote: self.remote_ts.clone(),
            lifetime: Lifetime::default(),
            replay_window: 1024,
            worker: 0,
            rekey: RekeyPolicy::AtSoftLimit,
            max_children: 8,
        };
        let mut config = InitiatorConfig::new(self.ike.clone(), child);
        config.remote_id = self.remote_id.clone();
        config.require_remote_id = self.remote_id.is_some();
        config.certreq = self.credentials.certreq();
        // Every user has a socket of its own that is not at port 500: a NAT, as far as the gateway can see.
        config.force_encap = true;
        config.config_request = Some(self.request.clone());
        config
    }
}

/// Puts a user's number into a pattern.
#[must_use]
pub fn fill(pattern: &str, number: u32) -> String {
    pattern.replace("{user}", &format!("{number:05}"))
}
