//! Runs users on real sockets: one task and one UDP socket each, on few threads; phases that all users share.
//!
//! ```text
//!   Login ──all in or failed──► Traffic{until} ──over (or interrupted)──► Close ──► report
//! ```

use std::cell::RefCell;
use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use netem::{Link, Profile};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::UdpSocket;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::cli::{Connect, Output};
use crate::plan::Plan;
use crate::report::{Collector, Report};
use crate::user::{Datagram, Fault, Port, State, Summary, User};

/// Late answers are awaited this long after the last request.
const GRACE: Duration = Duration::from_secs(1);
/// How long users may take to log out.
const LOGOUT: Duration = Duration::from_secs(5);
/// Datagrams that one task reads before others get their turn.
const READ_BURST: usize = 64;
/// Files that the program needs beside the users' sockets.
pub(crate) const OTHER_FILES: u64 = 64;

/// What all users are to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    Login,
    Traffic { until: Instant },
    Close,
}

thread_local! {
    /// Where a thread receives datagrams, whichever user's they are.
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; 65_536]);
}

struct Shared {
    plan: Arc<Plan>,
    options: Connect,
    local: Vec<IpAddr>,
    collector: Mutex<Collector>,
}

/// `loadtest connect`: runs the test and prints its report. False if a user was not served.
///
/// # Errors
/// If the test cannot be run at all.
pub fn connect(options: &Connect) -> Result<bool> {
    let report = measure(options)?;
    let text = match options.output {
        Output::Table => report.to_string(),
        Output::Json => serde_json::to_string_pretty(&report)? + "\n",
    };
    // A reader that went away (`| head`) is no failure of the test.
    drop(std::io::stdout().write_all(text.as_bytes()));
    Ok(report.is_success(options.max_loss))
}

/// Runs the test.
///
/// # Errors
/// If it cannot be run at all.
pub fn measure(options: &Connect) -> Result<Report> {
    let plan = Arc::new(Plan::connect(options)?);
    raise_file_limit(u64::from(options.users) + OTHER_FILES)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(options.threads.clamp(1, 64))
        .enable_all()
        .build()
        .context("runtime")?;
    runtime.block_on(test(plan, options))
}

pub(crate) fn raise_file_limit(files: u64) -> Result<()> {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_none_or(|current| current >= files) {
        return Ok(());
    }
    ensure!(
        limit.maximum.is_none_or(|maximum| maximum >= files),
        "{files} files are needed and only {} allowed (ulimit -n)",
        limit.maximum.unwrap_or_default()
    );
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(files),
            maximum: limit.maximum,
        },
    )
    .context("file limit")
}

/// The address from which the gateway is reached.
pub(crate) fn own_address(gateway: IpAddr) -> Result<IpAddr> {
    let any: SocketAddr = if gateway.is_ipv4() {
        ([0; 4], 0).into()
    } else {
        ([0u16; 8], 0).into()
    };
    let socket = std::net::UdpSocket::bind(any)?;
    socket
        .connect((gateway, 4500))
        .with_context(|| format!("no route to {gateway}"))?;
    Ok(socket.local_addr()?.ip())
}

async fn test(plan: Arc<Plan>, options: &Connect) -> Result<Report> {
    let local = match options.local.is_empty() {
        true => vec![own_address(plan.gateway)?],
        false => options.local.clone(),
    };
    ensure!(
        local
            .iter()
            .all(|address| address.is_ipv4() == plan.gateway.is_ipv4()),
        "--local and --gateway must be of one address family"
    );
    let shared = Arc::new(Shared {
        plan,
        options: options.clone(),
        local,
        collector: Mutex::new(Collector::new()?),
    });
    let (phase, watch) = watch::channel(Phase::Login);
    let (ready, mut logins) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    let start = Instant::now();
    for index in 0..options.users {
        let wait = if options.rate > 0.0 {
            f64::from(index) / options.rate
        } else {
            0.0
        };
        let at = start + Duration::from_secs_f64(wait);
        tasks.spawn(user(
            Arc::clone(&shared),
            options.first.saturating_add(index),
            at,
            watch.clone(),
            ready.clone(),
        ));
    }
    drop(ready);

    let progress = progress(options);
    let mut interrupts = signal(SignalKind::interrupt()).context("SIGINT")?;
    let mut terminations = signal(SignalKind::terminate()).context("SIGTERM")?;
    let interrupted = async {
        tokio::select! {
            _ = interrupts.recv() => {}
            _ = terminations.recv() => {}
        }
    };
    tokio::pin!(interrupted);
    let mut login_time = Duration::ZERO;
    let mut running = true;
    let mut waiting = options.users;
    while running && waiting > 0 {
        tokio::select! {
            came = logins.recv() => match came {
                Some(true) => {
                    (waiting, login_time) = (waiting - 1, start.elapsed());
                    progress.inc(1);
                }
                Some(false) => waiting -= 1,
                None => waiting = 0,
            },
            () = &mut interrupted => running = false,
        }
    }
    progress.finish_and_clear();

    if running {
        let now = Instant::now();
        let duration = Duration::from_secs(options.traffic);
        let until = if options.hold {
            now + Duration::from_secs(10 * 365 * 86_400)
        } else {
            now + duration
        };
        if shared.plan.traffic.is_some() {
            phase.send_replace(Phase::Traffic { until });
        }
        let over = tokio::time::sleep_until(until.into());
        tokio::select! {
            () = over, if shared.plan.traffic.is_some() || options.hold => {}
            () = &mut interrupted, if shared.plan.traffic.is_some() || options.hold => {}
            else => {}
        }
        if shared.plan.traffic.is_some() {
            // Requests stop here if the interrupt came first; answers under way are awaited.
            phase.send_replace(Phase::Traffic {
                until: until.min(Instant::now()),
            });
            tokio::time::sleep(GRACE).await;
        }
    }
    phase.send_replace(Phase::Close);
    while let Some(ended) = tasks.join_next().await {
        let summary = ended.context("a user's task panicked")?;
        lock(&shared.collector).user(&summary);
    }
    let collector = std::mem::replace(&mut *lock(&shared.collector), Collector::new()?);
    Ok(collector.finish(login_time))
}

fn progress(options: &Connect) -> ProgressBar {
    let style = ProgressStyle::with_template("logins {pos}/{len} {wide_bar} {per_sec}").ok();
    let bar = ProgressBar::with_draw_target(Some(options.users.into()), ProgressDrawTarget::stderr());
    match style {
        Some(style) => bar.with_style(style),
        None => bar,
    }
}

fn lock(collector: &Mutex<Collector>) -> std::sync::MutexGuard<'_, Collector> {
    collector.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The task of one user, from its first message to its last.
async fn user(
    shared: Arc<Shared>,
    number: u32,
    at: Instant,
    mut phase: watch::Receiver<Phase>,
    ready: mpsc::UnboundedSender<bool>,
) -> Summary {
    tokio::select! {
        () = tokio::time::sleep_until(at.into()) => {}
        // Interrupted before it was this user's turn.
        _ = phase.wait_for(|phase| *phase == Phase::Close) => {}
    }
    match Seat::new(&shared, number).await {
        Ok(seat) => seat.run(&shared, phase, ready).await,
        Err(error) => {
            // The receiver is gone only if the test is over.
            let _ = ready.send(false);
            Summary {
                number,
                state: State::Failed(Fault {
                    kind: "local",
                    detail: format!("{error:#}"),
                }),
                login: None,
                counts: None,
                drops: esp::DropCounters::default(),
                rekeys: 0,
                retransmits: 0,
            }
        }
    }
}

/// A user with its socket and the links that stand for its network.
struct Seat {
    user: User,
    socket: UdpSocket,
    outgoing: Link<Datagram>,
    incoming: Link<Datagram>,
    gateway: [(Port, SocketAddr); 2],
}

impl Seat {
    async fn new(shared: &Shared, number: u32) -> Result<Self> {
        let (plan, options) = (&shared.plan, &shared.options);
        let place = number as usize % shared.local.len().max(1);
        let local = *shared.local.get(place).context("no own address")?;
        let socket = UdpSocket::bind((local, 0))
            .await
            .with_context(|| format!("socket at {local}"))?;
        let profile = Profile {
            loss: options.loss,
            delay: Duration::from_millis(options.delay),
            ..Profile::default()
        };
        let seed = options.seed.wrapping_add(u64::from(number) << 1);
        Ok(Self {
            user: User::start(Instant::now(), plan, number, local, User::system_random)?,
            socket,
            outgoing: Link::new(profile, seed)?,
            incoming: Link::new(profile, seed ^ 1)?,
            gateway: [
                (Port::Ike, SocketAddr::new(plan.gateway, plan.ike_port)),
                (Port::Nat, SocketAddr::new(plan.gateway, plan.nat_port)),
            ],
        })
    }

    async fn run(
        mut self,
        shared: &Shared,
        mut phase: watch::Receiver<Phase>,
        ready: mpsc::UnboundedSender<bool>,
    ) -> Summary {
        let mut ready = Some(ready);
        let mut close_by = None;
        loop {
            let now = Instant::now();
            self.transfer(now).await;
            let times = self.user.take_round_trips();
            if !times.is_empty() {
                lock(&shared.collector).round_trips(&times);
            }
            if !matches!(self.user.state(), State::Connecting)
                && let Some(ready) = ready.take()
            {
                let up = matches!(self.user.state(), State::Up);
                if let (true, Some(latency)) = (up, self.user.login_time()) {
                    lock(&shared.collector).login(latency);
                }
                let _ = ready.send(up);
            }
            let over = close_by.is_some_and(|by| by <= now)
                || matches!(self.user.state(), State::Closed)
                || (close_by.is_some() && !matches!(self.user.state(), State::Up | State::Connecting));
            if over {
                return self.user.finish(now);
            }
            let deadline = [
                self.user.deadline(),
                self.outgoing.deadline(),
                self.incoming.deadline(),
                close_by,
            ]
            .into_iter()
            .flatten()
            .min();
            let sleep = tokio::time::sleep_until(deadline.unwrap_or(now + LOGOUT).into());
            tokio::select! {
                readable = self.socket.readable() => if readable.is_ok() { BUFFER.with_borrow_mut(|buffer| self.read(buffer)) },
                () = sleep => {}
                changed = phase.changed() => {
                    let now = Instant::now();
                    let wanted = if changed.is_ok() { *phase.borrow_and_update() } else { Phase::Close };
                    match wanted {
                        Phase::Login => {}
                        Phase::Traffic { until } => self.user.start_traffic(now, until),
                        Phase::Close => {
                            self.user.close(now);
                            close_by.get_or_insert(now + LOGOUT);
                        }
                    }
                }
            }
        }
    }

    /// Timers, what is due from the links, and what the user has to send.
    async fn transfer(&mut self, now: Instant) {
        while let Some(datagram) = self.incoming.poll(now) {
            self.user.datagram(now, datagram.port, datagram.bytes);
        }
        if self.user.deadline().is_some_and(|at| at <= now) {
            self.user.timeout(now);
        }
        while let Some(datagram) = self.user.poll() {
            self.outgoing.send(now, datagram.bytes.len(), datagram);
        }
        while let Some(datagram) = self.outgoing.poll(now) {
            let to = self
                .gateway
                .iter()
                .find(|(port, _)| *port == datagram.port)
                .map(|(_, to)| *to);
            if let Some(to) = to {
                // What the network refuses is lost, like what it loses.
                drop(self.socket.send_to(&datagram.bytes, to).await);
            }
        }
    }

    fn read(&mut self, buffer: &mut [u8]) {
        for _ in 0..READ_BURST {
            let Ok((len, from)) = self.socket.try_recv_from(buffer) else {
                return;
            };
            let port = self
                .gateway
                .iter()
                .find(|(_, address)| *address == from)
                .map(|(port, _)| *port);
            if let (Some(port), Some(bytes)) = (port, buffer.get(..len)) {
                self.incoming.send(
                    Instant::now(),
                    len,
                    Datagram {
                        port,
                        bytes: bytes.to_vec(),
                    },
                );
            }
        }
    }
}
