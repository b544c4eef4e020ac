//! A TCP proxy that misbehaves when told to: the link between the store and a member.

use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What the link does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Carries everything.
    Open,
    /// Carries requests, and loses the answers.
    NoAnswers,
    /// Carries nothing, and says nothing.
    Silent,
    /// Cuts connections and makes no new ones.
    Cut,
}

/// The mode, and how often the link has been cut: a connection that lost octets must not go on, however late it hears.
#[derive(Clone, Copy, Debug)]
struct State {
    mode: Mode,
    cuts: u64,
}

/// A proxy in front of a member.
pub struct Proxy {
    endpoint: String,
    state: Arc<watch::Sender<State>>,
}

impl Proxy {
    /// Listens on a port of its own.
    pub async fn start(target: &str) -> Self {
        let target = target.trim_start_matches("http://").to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let state = Arc::new(watch::Sender::new(State {
            mode: Mode::Open,
            cuts: 0,
        }));
        let states = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let begun = *states.borrow();
                if begun.mode == Mode::Cut {
                    continue;
                }
                let Ok(server) = TcpStream::connect(&target).await else {
                    continue;
                };
                tokio::spawn(carry(client, server, states.subscribe(), begun.cuts));
            }
        });
        Self { endpoint, state }
    }

    pub fn endpoint(&self) -> String {
        self.endpoint.clone()
    }

    pub fn set(&self, mode: Mode) {
        self.state.send_modify(|state| {
            state.mode = mode;
            state.cuts += u64::from(mode == Mode::Cut);
        });
    }
}

/// Carries octets until the link is cut or an end closes.
async fn carry(client: TcpStream, server: TcpStream, mut states: watch::Receiver<State>, cuts: u64) {
    let (client_in, client_out) = client.into_split();
    let (server_in, server_out) = server.into_split();
    let requests = [Mode::Open, Mode::NoAnswers];
    tokio::select! {
        () = pump(client_in, server_out, states.clone(), cuts, &requests) => {}
        () = pump(server_in, client_out, states.clone(), cuts, &[Mode::Open]) => {}
        _ = states.wait_for(|state| state.cuts != cuts) => {}
    }
}

async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    states: watch::Receiver<State>,
    cuts: u64,
    carrying: &[Mode],
) {
    let mut octets = vec![0; 16_384];
    while let Ok(count @ 1..) = from.read(&mut octets).await {
        let state = *states.borrow();
        if state.cuts != cuts {
            return;
        }
        if carrying.contains(&state.mode) && to.write_all(&octets[..count]).await.is_err() {
            return;
        }
    }
}
