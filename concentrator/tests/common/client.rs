//! An initiator: the `ike` crate on two UDP sockets.

#![allow(clippy::wildcard_enum_match_arm, reason = "tests")]

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::{Duration, Instant};

use concentrator::spis::Spis;
use crypto::{Secret, SystemRandom};
use ike::auth::{AuthPhase, AuthVerdict, LocalCredential, PeerCredential, Rejection};
use ike::config::ConfigRequest;
use ike::wire::proposal::{ChildProposal, IkeProposal};
use ike::{
    ChildPolicy, ChildSa, Command, Context, Event, GatewayId, Identity, IkeSa, InitiatorConfig, Input,
    Output, RekeyPolicy, Timing,
};
use ip::Selector;

const MARKER: [u8; 4] = [0; 4];

/// One user.
pub struct Client {
    pub sa: IkeSa,
    plain: UdpSocket,
    marked: UdpSocket,
    key: Secret,
    id: Identity,
    pub established: bool,
    pub children: Vec<ChildSa>,
    pub failed: Option<String>,
    pub closed: Option<String>,
    /// Where a gateway sent it.
    pub redirected: Option<GatewayId>,
    /// Datagrams that came.
    pub received: usize,
    /// Times that the IKE SA was rekeyed.
    pub rekeyed: usize,
    /// Where the gateway really listens in place of 500 and 4500.
    pub ports: (u16, u16),
}

impl Client {
    /// A user at `address` who calls the gateway at 127.0.0.1.
    pub fn new(address: &str, id: &str, gateway_id: &str, key: &str) -> Self {
        Self::calling("127.0.0.1", address, id, gateway_id, key)
    }

    /// A user at `address` who calls the gateway at `gateway`.
    pub fn calling(gateway: &str, address: &str, id: &str, gateway_id: &str, key: &str) -> Self {
        Self::configured(gateway, address, id, gateway_id, key, |_| {})
    }

    /// The same with another configuration.
    pub fn configured(
        gateway: &str,
        address: &str,
        id: &str,
        gateway_id: &str,
        key: &str,
        change: impl FnOnce(&mut InitiatorConfig),
    ) -> Self {
        let gateway: IpAddr = gateway.parse().unwrap();
        let address: IpAddr = address.parse().unwrap();
        let bind = |port| {
            let socket = UdpSocket::bind(SocketAddr::new(address, port)).unwrap();
            socket.set_nonblocking(true).unwrap();
            socket
        };
        let (plain, marked) = (bind(500), bind(4500));
        let child = ChildPolicy {
            proposals: ChildProposal::defaults(),
            ts_local: vec![Selector::ANY_V4],
            ts_remote: vec![Selector::ANY_V4],
            lifetime: Default::default(),
            replay_window: 64,
            resources: Vec::new(),
            worker: 0,
            rekey: RekeyPolicy::AtSoftLimit,
            max_children: 4,
        };
        let mut config = InitiatorConfig {
            remote_id: Some(Identity::fqdn(gateway_id)),
            config_request: Some(ConfigRequest::ipv4()),
            force_encap: true,
            ..InitiatorConfig::new(IkeProposal::defaults(), child)
        };
        change(&mut config);
        let context = Context {
            random: Box::new(SystemRandom),
            spis: Arc::new(Spis::new()),
            generation: 1,
            key_log: false,
            timing: Timing {
                retransmit_base: Duration::from_millis(300),
                ..Timing::default()
            },
        };
        let local = SocketAddr::new(address, 500);
        let sa = IkeSa::initiate(
            Instant::now(),
            context,
            config,
            local,
            SocketAddr::new(gateway, 500),
        );
        Self {
            sa,
            plain,
            marked,
            key: Secret::from(key.as_bytes()),
            id: Identity::email(id),
            established: false,
            children: Vec::new(),
            failed: None,
            closed: None,
            redirected: None,
            received: 0,
            rekeyed: 0,
            ports: (500, 4500),
        }
    }

    /// Sends and receives until `done` says so; false when that takes more than `patience`.
    pub fn run(&mut self, patience: Duration, mut done: impl FnMut(&Self) -> bool) -> bool {
        let begun = Instant::now();
        loop {
            self.drain();
            if done(self) {
                return true;
            }
            if begun.elapsed() > patience {
                return false;
            }
            if !self.receive() {
                std::thread::sleep(Duration::from_millis(1));
            }
            let now = Instant::now();
            if self.sa.deadline().is_some_and(|(at, _)| at <= now) {
                self.sa.handle(now, Input::Timeout);
            }
        }
    }

    /// Logs in; panics when the gateway refuses.
    pub fn login(&mut self) {
        let up = self.run(Duration::from_secs(20), |client| {
            client.failed.is_some() || (client.established && !client.children.is_empty())
        });
        assert!(up, "the login takes too long");
        assert_eq!(self.failed, None);
    }

    /// Sends a liveness check; true when an answer came within `patience`.
    pub fn alive(&mut self, patience: Duration) -> bool {
        let before = self.received;
        self.sa
            .handle(Instant::now(), Input::Command(Command::CheckLiveness));
        self.run(patience, |client| client.received > before) && self.closed.is_none()
    }

    pub fn command(&mut self, command: Command) {
        self.sa.handle(Instant::now(), Input::Command(command));
    }

    fn receive(&mut self) -> bool {
        let mut buffer = [0; 65_535];
        let mut any = false;
        for marked in [false, true] {
            let socket = if marked { &self.marked } else { &self.plain };
            while let Ok((length, from)) = socket.recv_from(&mut buffer) {
                let bytes = &buffer[..length];
                let bytes = if marked {
                    bytes.strip_prefix(&MARKER).map(<[u8]>::to_vec)
                } else {
                    Some(bytes.to_vec())
                };
                let Some(bytes) = bytes else { continue };
                let local =
                    SocketAddr::new(socket.local_addr().unwrap().ip(), if marked { 4500 } else { 500 });
                let expected = if marked { self.ports.1 } else { self.ports.0 };
                if from.port() != expected {
                    continue;
                }
                let from = SocketAddr::new(from.ip(), if marked { 4500 } else { 500 });
                self.received += 1;
                any = true;
                self.sa.handle(
                    Instant::now(),
                    Input::Datagram {
                        local,
                        remote: from,
                        bytes,
                    },
                );
            }
        }
        any
    }

    fn drain(&mut self) {
        while let Some(output) = self.sa.poll() {
            match output {
                Output::Transmit(transmit) => {
                    let gateway = transmit.remote.ip();
                    if transmit.local.port() == 4500 {
                        let datagram = [&MARKER[..], &transmit.bytes].concat();
                        self.marked.send_to(&datagram, (gateway, self.ports.1)).unwrap();
                    } else {
                        self.plain
                            .send_to(&transmit.bytes, (gateway, self.ports.0))
                            .unwrap();
                    }
                }
                Output::Event(event) => self.event(event),
            }
        }
    }

    fn event(&mut self, event: Event) {
        match event {
            Event::Authenticate { ticket, job } => {
                let verdict = match job.phase {
                    AuthPhase::Local => AuthVerdict::Signed(
                        ike::auth::sign(&job, &LocalCredential::psk(self.id.clone(), self.key.clone()))
                            .unwrap(),
                    ),
                    AuthPhase::Peer | AuthPhase::Both => {
                        match ike::auth::verify(&job, &PeerCredential::Psk(self.key.clone())) {
                            Ok(peer) => AuthVerdict::Verified(peer),
                            Err(failure) => AuthVerdict::Reject(Rejection {
                                notify: failure.notify(),
                                reason: failure.to_string(),
                            }),
                        }
                    }
                };
                self.sa.handle(
                    Instant::now(),
                    Input::AuthResult {
                        ticket,
                        verdict: Box::new(verdict),
                    },
                );
            }
            Event::Established { .. } => self.established = true,
            Event::IkeRekeyed { .. } => self.rekeyed += 1,
            Event::ChildUp(child) => self.children.push(*child),
            Event::ChildRekeyed { old_spi_in, new } => {
                self.children.retain(|child| child.spi_in != old_spi_in);
                self.children.push(*new);
            }
            Event::Failed(failure) => self.failed = Some(failure.to_string()),
            Event::Redirected { to } => self.redirected = Some(to),
            Event::Closed { reason } => self.closed = Some(reason.to_string()),
            _ => {}
        }
    }
}
