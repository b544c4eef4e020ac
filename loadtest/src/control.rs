//! Orders to a running test: lines on a Unix socket or on standard input, and signals.
//!
//! ```text
//!   mark NAME      opens the interval NAME             report [NAME]  all intervals, or the newest of that name
//!   status         users, flows, silences going on     since NAME     from that mark until this moment
//!   quit           ends the test
//! ```
//! Each line is answered with one line of JSON. The loop that owns the test is woken through [`Control::waker`], takes the
//! requests and answers them itself, so that nothing needs a lock.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileTypeExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use rustix::event::{EventfdFlags, eventfd};
use serde_json::{Value, json};
use tokio::signal::unix::{SignalKind, signal};

/// Requests that wait for the loop; whoever asks more has to wait.
const QUEUE: usize = 64;
/// Connections at once; more are closed.
const CONNECTIONS: usize = 16;
/// Octets of all orders of one connection.
const MAX_ORDERS: u64 = 1 << 20;
/// Characters of a mark's name.
const MAX_NAME: usize = 120;
/// A reader that does not take its answer by then loses it.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(200);

/// What is asked for.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Order {
    /// Open a named interval.
    Mark(String),
    /// All intervals, or the newest of a name.
    Report(Option<String>),
    /// From a mark until this moment.
    Since(String),
    /// How things stand.
    Status,
    /// End.
    Quit,
}

impl Order {
    /// Reads a line.
    ///
    /// # Errors
    /// In words, for whoever wrote it.
    pub fn parse(line: &str) -> Result<Self, String> {
        let line = line.trim();
        let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        let name = rest.trim().to_owned();
        if name.chars().count() > MAX_NAME || name.chars().any(char::is_control) {
            return Err(format!("a name has at most {MAX_NAME} printable characters"));
        }
        match (word, name.is_empty()) {
            ("mark", false) => Ok(Self::Mark(name)),
            ("report", empty) => Ok(Self::Report((!empty).then_some(name))),
            ("since", false) => Ok(Self::Since(name)),
            ("mark" | "since", true) => Err(format!("{word} needs a name")),
            ("status", true) => Ok(Self::Status),
            ("quit", true) => Ok(Self::Quit),
            _ => Err("not one of: mark NAME, report [NAME], since NAME, status, quit".to_owned()),
        }
    }
}

/// Who wants the answer.
#[derive(Debug)]
enum Asker {
    Socket(UnixStream),
    Stdout,
    Nobody,
}

/// An order with the way back.
#[derive(Debug)]
pub struct Request {
    /// What is asked for.
    pub order: Order,
    asker: Asker,
}

impl Request {
    /// Sends the answer; one that nobody reads is lost.
    pub fn answer(self, answer: &Value) {
        self.asker.write(answer);
    }
}

impl Asker {
    fn write(self, answer: &Value) {
        let line = format!("{answer}\n");
        match self {
            Self::Socket(mut stream) => drop(stream.write_all(line.as_bytes())),
            Self::Stdout => drop(std::io::stdout().write_all(line.as_bytes())),
            Self::Nobody => {}
        }
    }
}

/// The receiving end.
#[derive(Debug)]
pub struct Control {
    receiver: Receiver<Request>,
    waker: Arc<OwnedFd>,
    socket: Option<PathBuf>,
}

#[derive(Clone)]
struct Desk {
    sender: SyncSender<Request>,
    waker: Arc<OwnedFd>,
}

impl Desk {
    /// False if the test is over.
    fn hand_in(&self, request: Request) -> bool {
        let sent = self.sender.send(request).is_ok();
        // A full counter wakes as well.
        let _ = rustix::io::write(self.waker.as_fd(), &1u64.to_ne_bytes());
        sent
    }

    fn line(&self, line: &str, asker: Asker) -> bool {
        match Order::parse(line) {
            Ok(order) => self.hand_in(Request { order, asker }),
            Err(error) => {
                asker.write(&json!({ "ok": false, "error": error }));
                true
            }
        }
    }
}

impl Control {
    /// Listens for signals, and for orders at `path`, which becomes a Unix socket; `-` is standard input.
    ///
    /// # Errors
    /// If the socket or a thread cannot be made.
    pub fn start(path: Option<&Path>) -> Result<Self> {
        let (sender, receiver) = sync_channel(QUEUE);
        let waker = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("eventfd")?);
        let desk = Desk {
            sender,
            waker: Arc::clone(&waker),
        };
        let signals = desk.clone();
        spawn("signals", move || listen_for_signals(&signals))?;
        let mut socket = None;
        if path == Some(Path::new("-")) {
            spawn("control", move || {
                for line in std::io::stdin().lock().take(MAX_ORDERS).lines() {
                    let Ok(line) = line else { return };
                    if !line.trim().is_empty() && !desk.line(&line, Asker::Stdout) {
                        return;
                    }
                }
            })?;
        } else if let Some(path) = path {
            remove_socket(path)?;
            let listener = UnixListener::bind(path).with_context(|| format!("socket {}", path.display()))?;
            socket = Some(path.to_owned());
            spawn("control", move || accept(&listener, &desk))?;
        }
        Ok(Self {
            receiver,
            waker,
            socket,
        })
    }

    /// Becomes readable when there is a request.
    #[must_use]
    pub fn waker(&self) -> BorrowedFd<'_> {
        self.waker.as_fd()
    }

    /// The next request, without waiting.
    #[must_use]
    pub fn next(&self) -> Option<Request> {
        // What it counted does not matter: all that waits is taken.
        let _ = rustix::io::read(self.waker.as_fd(), &mut [0u8; 8]);
        self.receiver.try_recv().ok()
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        if let Some(path) = &self.socket {
            let _ = remove_socket(path);
        }
    }
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
        .context("thread")
}

/// Removes what an earlier run left, and nothing that is no socket.
fn remove_socket(path: &Path) -> Result<()> {
    let Ok(metadata) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    ensure!(
        metadata.file_type().is_socket(),
        "{} exists and is no socket",
        path.display()
    );
    std::fs::remove_file(path).with_context(|| format!("remove {}", path.display()))
}

fn accept(listener: &UnixListener, desk: &Desk) {
    let open = Arc::new(AtomicUsize::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else { return };
        if open.load(Ordering::Relaxed) >= CONNECTIONS {
            continue;
        }
        open.fetch_add(1, Ordering::Relaxed);
        let (desk, count) = (desk.clone(), Arc::clone(&open));
        let served = spawn("control", move || {
            serve(stream, &desk);
            count.fetch_sub(1, Ordering::Relaxed);
        });
        if served.is_err() {
            open.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

fn serve(stream: UnixStream, desk: &Desk) {
    if stream.set_write_timeout(Some(ANSWER_TIMEOUT)).is_err() {
        return;
    }
    let Ok(answers) = stream.try_clone() else { return };
    for line in BufReader::new(stream.take(MAX_ORDERS)).lines() {
        let (Ok(line), Ok(answers)) = (line, answers.try_clone()) else {
            return;
        };
        if !line.trim().is_empty() && !desk.line(&line, Asker::Socket(answers)) {
            return;
        }
    }
}

fn listen_for_signals(desk: &Desk) {
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return;
    };
    runtime.block_on(async {
        let (Ok(mut interrupts), Ok(mut terminations)) =
            (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
        else {
            return;
        };
        loop {
            tokio::select! {
                _ = interrupts.recv() => {}
                _ = terminations.recv() => {}
            }
            let quit = Request {
                order: Order::Quit,
                asker: Asker::Nobody,
            };
            if !desk.hand_in(quit) {
                return;
            }
        }
    });
}

/// `loadtest ctl`: sends one order to a socket and prints the answer. False if the answer says that it was not done.
///
/// # Errors
/// If nobody listens there, or no answer comes.
pub fn ctl(path: &Path, order: &str) -> Result<bool> {
    let mut stream = UnixStream::connect(path).with_context(|| format!("socket {}", path.display()))?;
    stream.write_all(format!("{order}\n").as_bytes())?;
    let mut answer = String::new();
    BufReader::new(stream).read_line(&mut answer)?;
    ensure!(!answer.is_empty(), "no answer");
    // A reader that went away is no failure.
    drop(std::io::stdout().write_all(answer.as_bytes()));
    let answer: Value = serde_json::from_str(&answer).context("the answer is no JSON")?;
    Ok(answer.get("ok").and_then(Value::as_bool).unwrap_or(false))
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "tests"
)]
mod tests {
    use super::*;

    #[test]
    fn orders_are_read_and_bad_ones_explained() {
        let name = || "kill a #3".to_owned();
        for (line, order) in [
            ("mark kill a #3\n", Order::Mark(name())),
            ("  report ", Order::Report(None)),
            ("report  kill a #3", Order::Report(Some(name()))),
            ("since kill a #3", Order::Since(name())),
            ("status", Order::Status),
            ("quit", Order::Quit),
        ] {
            assert_eq!(Order::parse(line), Ok(order), "{line}");
        }
        let long = format!("mark {}", "x".repeat(MAX_NAME + 1));
        for line in [
            "mark",
            "since  ",
            "quit now",
            "status x",
            "MARK a",
            "mark a\u{7}b",
            &long,
            "",
        ] {
            assert!(Order::parse(line).is_err(), "{line}");
        }
    }

    #[test]
    fn a_socket_carries_orders_and_answers() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("control");
        let control = Control::start(Some(&path)).unwrap();
        let asker = {
            let path = path.clone();
            std::thread::spawn(move || {
                let stream = UnixStream::connect(path).unwrap();
                (&stream).write_all(b"nonsense\nmark a\nstatus\n").unwrap();
                let lines = BufReader::new(stream).lines().take(3);
                lines
                    .map(|line| serde_json::from_str(&line.unwrap()).unwrap())
                    .collect::<Vec<Value>>()
            })
        };
        let mut orders = Vec::new();
        while orders.len() < 2 {
            let mut ready = [rustix::event::PollFd::from_borrowed_fd(
                control.waker(),
                rustix::event::PollFlags::IN,
            )];
            rustix::event::poll(&mut ready, None).unwrap();
            while let Some(request) = control.next() {
                let answer = json!({ "ok": true, "order": format!("{:?}", request.order) });
                orders.push(request.order.clone());
                request.answer(&answer);
            }
        }
        assert_eq!(orders, [Order::Mark("a".to_owned()), Order::Status]);
        let answers = asker.join().unwrap();
        assert_eq!(answers[0]["ok"], false);
        assert_eq!(answers[1]["order"], "Mark(\"a\")");
        assert_eq!(answers[2]["order"], "Status");
        drop(control);
        assert!(!path.exists());
        std::fs::write(&path, "precious").unwrap();
        assert!(Control::start(Some(&path)).is_err() && path.exists());
    }
}
