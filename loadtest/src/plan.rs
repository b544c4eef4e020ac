//! What all users of a test have in common: the checked form of the command line.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use ike::config::ConfigRequest;
use ike::wire::proposal::{ChildProposal, IkeProposal};
use ike::{ChildPolicy, Identity, InitiatorConfig, Lifetime, RekeyPolicy, Timing};
use ip::Selector;

use crate::cli;
use crate::credentials::Credentials;
use crate::inner::Service;

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
    /// Silence of the gateway's IKE after which a user probes it; the core's own choice if absent.
    pub liveness: Option<Duration>,
    /// Age at which a user replaces its IKE SA.
    pub ike_lifetime: Lifetime,
    /// Age at which a user replaces a child SA.
    pub child_lifetime: Lifetime,
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

impl Traffic {
    /// Checks sizes and rates.
    ///
    /// # Errors
    /// Traffic that makes no sense.
    pub fn new(target: IpAddr, service: Service, size: usize, pps: f64) -> Result<Self> {
        let least = service.least_size(target);
        ensure!(
            (least..=MAX_SIZE).contains(&size),
            "--size {size}: must be {least} to {MAX_SIZE} octets"
        );
        let interval = interval(pps)?;
        Ok(Self {
            target,
            service,
            size,
            interval,
        })
    }
}

/// The time from one packet to the next.
///
/// # Errors
/// A rate that is not above 0, or too high to be meant.
pub fn interval(pps: f64) -> Result<Duration> {
    ensure!(
        pps > 0.0 && pps <= 1e6,
        "packets per second must be above 0 and at most 1000000"
    );
    Ok(Duration::from_secs_f64(1.0 / pps))
}

impl Plan {
    /// Reads the part that concerns identities and negotiation, where there is one gateway.
    ///
    /// # Errors
    /// What does not parse, a file that cannot be read, or several gateways.
    pub fn new(options: &cli::Identity) -> Result<Self> {
        match options.gateway.as_slice() {
            [gateway] => Self::of(options, *gateway),
            _ => bail!("--gateway: one address, please"),
        }
    }

    /// One plan for each gateway.
    ///
    /// # Errors
    /// What does not parse, or a file that cannot be read.
    pub fn each(options: &cli::Identity) -> Result<Vec<Self>> {
        options
            .gateway
            .iter()
            .map(|gateway| Self::of(options, *gateway))
            .collect()
    }

    fn of(options: &cli::Identity, gateway: IpAddr) -> Result<Self> {
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
            gateway,
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
            liveness: None,
            ike_lifetime: Lifetime::default(),
            child_lifetime: Lifetime::default(),
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
            plan.traffic = Some(Traffic::new(target, service, options.size, options.pps)?);
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
            lifetime: self.child_lifetime,
            replay_window: 1024,
            resources: Vec::new(),
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
        config.ike_lifetime = self.ike_lifetime;
        config.liveness = self.liveness;
        config
    }
}

/// Puts a user's number into a pattern.
#[must_use]
pub fn fill(pattern: &str, number: u32) -> String {
    pattern.replace("{user}", &format!("{number:05}"))
}
