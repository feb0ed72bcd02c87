//! A TCP proxy that delays, cuts or swallows what passes through it.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::OwnedReadHalf, tcp::OwnedWriteHalf},
    sync::watch,
    task::JoinSet,
    time::{sleep, timeout},
};

/// After this time a half-open connection is closed.
const HALF_OPEN: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Each piece waits for so long.
    Delay(Duration),
    /// Connections stay open, and their bytes disappear. A connection that has lost bytes stays so.
    Swallow,
    /// Open connections are broken, new ones are closed at once.
    Cut,
}

pub struct Proxy {
    pub address: SocketAddr,
    mode: watch::Sender<Mode>,
    target: Arc<Mutex<String>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    /// `target` is `host:port`.
    pub async fn to(target: &str) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (mode, modes) = watch::channel(Mode::Pass);
        let target = Arc::new(Mutex::new(target.to_owned()));
        let accepting = tokio::spawn(accept(listener, modes, target.clone()));
        Proxy {
            address,
            mode,
            target,
            accepting,
        }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// New connections go there.
    pub fn redirect(&self, target: &str) {
        *self.target.lock().expect("not poisoned") = target.to_owned();
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // Its connections end with the set that the task holds.
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, modes: watch::Receiver<Mode>, target: Arc<Mutex<String>>) {
    let mut relays = JoinSet::new();
    let mut changes = modes.clone();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                // An error means that the process has no file descriptor left.
                let Ok((client, _)) = accepted else {
                    sleep(Duration::from_millis(50)).await;
                    continue;
                };
                if *modes.borrow() != Mode::Cut {
                    let target = target.lock().expect("not poisoned").clone();
                    relays.spawn(relay(client, target, modes.clone()));
                }
            }
            Some(_) = relays.join_next() => {}
            changed = changes.changed() => {
                if changed.is_err() {
                    return;
                }
                if *changes.borrow_and_update() == Mode::Cut {
                    relays.abort_all();
                }
            }
        }
    }
}

async fn relay(client: TcpStream, target: String, modes: watch::Receiver<Mode>) {
    let Ok(server) = TcpStream::connect(&target).await else {
        return;
    };
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    // Shared by both directions: a connection that has lost bytes in one of them is of no use in the other.
    let (broken, is_broken) = watch::channel(false);
    let up = pump(from_client, to_server, modes.clone(), &broken);
    let down = pump(from_server, to_client, modes, &broken);
    tokio::pin!(up, down);
    // A close is forwarded, except on a half-open connection, whose other end does not learn of it.
    let up_first = tokio::select! {
        () = &mut up => true,
        () = &mut down => false,
    };
    if *is_broken.borrow() {
        let _ = if up_first {
            timeout(HALF_OPEN, down).await
        } else {
            timeout(HALF_OPEN, up).await
        };
    }
}

/// Forwards until either end closes. A half that swallows keeps the sockets open until the peer closes, or for
/// [`HALF_OPEN`].
async fn pump(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    modes: watch::Receiver<Mode>,
    broken: &watch::Sender<bool>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(count) = from.read(&mut buffer).await
        && count > 0
    {
        let mode = *modes.borrow();
        if mode == Mode::Swallow {
            broken.send_replace(true);
        }
        if *broken.borrow() {
            continue;
        }
        if let Mode::Delay(delay) = mode {
            sleep(delay).await;
        }
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
    if *modes.borrow() == Mode::Swallow {
        broken.send_replace(true);
    }
}
