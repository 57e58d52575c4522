//! A TCP proxy that a test can cut, stall and heal, to stand before a real server. For MongoDB use a URI with
//! `directConnection=true` ([`Mongo::direct_uri`](crate::servers::Mongo::direct_uri)), else the driver goes on to the
//! addresses that the replica set gives.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, tcp::ReadHalf, tcp::WriteHalf},
    sync::watch,
    task::JoinHandle,
};

/// A proxy on a port of its own at 127.0.0.1; its connections end when it is dropped. It lives on the runtime that it was
/// started on.
pub struct Proxy {
    addr: SocketAddr,
    state: Arc<State>,
    accepting: JoinHandle<()>,
}

struct State {
    upstream: String,
    /// What is replaced in the server's replies.
    renamed: Vec<(Vec<u8>, Vec<u8>)>,
    mode: watch::Sender<Mode>,
    /// How many more bytes of the server's the clients get, when that is limited.
    budget: Mutex<Option<u64>>,
    open: AtomicUsize,
    accepted: AtomicUsize,
    refused: AtomicUsize,
    cuts: AtomicUsize,
}

#[derive(Clone, Copy, Default)]
struct Mode {
    /// Connections made in an earlier epoch are to end.
    epoch: u64,
    refusing: bool,
    stalled: bool,
}

impl Proxy {
    /// Starts a proxy for the server at `upstream`, such as `127.0.0.1:27017`.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start(upstream: impl Into<String>) -> Proxy {
        Proxy::start_renaming(upstream, &[]).await
    }

    /// Like [`Proxy::start`]; every `old` in the server's replies, `(old, new)`, becomes `new`, which is as long. So a server
    /// that tells of others leads to proxies before them: `("27017", "34567")`. What is split over two reads stays.
    ///
    /// # Panics
    /// When no port can be had, or a pair is not of one length.
    pub async fn start_renaming(upstream: impl Into<String>, renamed: &[(String, String)]) -> Proxy {
        assert!(renamed.iter().all(|(old, new)| old.len() == new.len() && !old.is_empty()), "{renamed:?}");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port for the proxy");
        let addr = listener.local_addr().expect("a bound listener has an address");
        let state = Arc::new(State {
            upstream: upstream.into(),
            renamed: renamed.iter().map(|(old, new)| (old.clone().into(), new.clone().into())).collect(),
            mode: watch::Sender::default(),
            budget: Mutex::new(None),
            open: AtomicUsize::new(0),
            accepted: AtomicUsize::new(0),
            refused: AtomicUsize::new(0),
            cuts: AtomicUsize::new(0),
        });
        let accepting = tokio::spawn(accept(listener, state.clone()));
        Proxy { addr, state, accepting }
    }

    /// Where it listens: `127.0.0.1:port`.
    pub fn addr(&self) -> String {
        self.addr.to_string()
    }

    /// Resets all connections, and new ones as soon as they are made, until [`Proxy::heal`].
    pub fn cut(&self) {
        self.state.cut(true);
    }

    /// Resets all connections once; new ones work.
    pub fn cut_once(&self) {
        self.state.cut(false);
    }

    /// Lets `n` more bytes pass from the server to the clients, counted over all connections, then resets all of them
    /// once; new ones work. With a count that is no sum of whole replies, that is in the middle of a reply.
    pub fn cut_after_bytes(&self, n: u64) {
        *lock(&self.state.budget) = Some(n);
    }

    /// Takes new connections again, forgets a limit that was not reached, and lets bytes pass.
    pub fn heal(&self) {
        *lock(&self.state.budget) = None;
        self.state.mode.send_modify(|m| {
            m.refusing = false;
            m.stalled = false;
        });
    }

    /// Holds all bytes, both ways, without closing anything: a network that has gone silent.
    pub fn stall(&self) {
        self.state.mode.send_modify(|m| m.stalled = true);
    }

    /// Ends [`Proxy::stall`]: what was held goes on.
    pub fn resume(&self) {
        self.state.mode.send_modify(|m| m.stalled = false);
    }

    /// How many connections are open.
    pub fn connections(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// How many connections were ever made through it, without those that were refused.
    pub fn accepted(&self) -> usize {
        self.state.accepted.load(Ordering::SeqCst)
    }

    /// How many connections were refused while it was cut.
    pub fn refused(&self) -> usize {
        self.state.refused.load(Ordering::SeqCst)
    }

    /// How often it has been cut, by call or by count.
    pub fn cuts(&self) -> usize {
        self.state.cuts.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.state.cut(true);
    }
}

impl State {
    fn cut(&self, refusing: bool) {
        self.cuts.fetch_add(1, Ordering::SeqCst);
        self.mode.send_modify(|m| {
            m.epoch += 1;
            m.refusing |= refusing;
        });
    }

    /// How many of `len` bytes for a client may pass, and whether the connections are to be cut behind them.
    fn allow(&self, len: usize) -> (usize, bool) {
        let mut budget = lock(&self.budget);
        match *budget {
            Some(left) if left <= len as u64 => {
                *budget = None;
                (left as usize, true)
            }
            Some(left) => {
                *budget = Some(left - len as u64);
                (len, false)
            }
            None => (len, false),
        }
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    while let Ok((client, _)) = listener.accept().await {
        let mode = state.mode.subscribe();
        let now = *mode.borrow();
        if now.refusing {
            state.refused.fetch_add(1, Ordering::SeqCst);
            let _ = client.set_zero_linger();
            continue;
        }
        state.accepted.fetch_add(1, Ordering::SeqCst);
        state.open.fetch_add(1, Ordering::SeqCst);
        let state = state.clone();
        tokio::spawn(async move {
            relay(client, &state, mode, now.epoch).await;
            state.open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

/// Carries one connection until either side closes it, or it is cut: then both sides are reset.
async fn relay(mut client: TcpStream, state: &State, mut mode: watch::Receiver<Mode>, epoch: u64) {
    let mut cuts = mode.clone();
    let cut = async move {
        let _ = cuts.wait_for(|m| m.epoch != epoch).await;
    };
    tokio::pin!(cut);
    let mut server = tokio::select! {
        biased;
        () = &mut cut => return reset(&client),
        server = TcpStream::connect(&state.upstream) => match server {
            Ok(server) => server,
            Err(_) => return reset(&client),
        },
    };
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let carried = async {
        let (mut client_in, mut client_out) = client.split();
        let (mut server_in, mut server_out) = server.split();
        let mut stalls = mode.clone();
        tokio::select! {
            () = upwards(&mut client_in, &mut server_out, &mut mode) => {}
            () = downwards(&mut server_in, &mut client_out, state, &mut stalls) => {}
        }
    };
    let was_cut = tokio::select! {
        biased;
        () = cut => true,
        () = carried => false,
    };
    // The side that reached the limit of `cut_after_bytes` ends before it is told of its own cut.
    if was_cut || state.mode.borrow().epoch != epoch {
        reset(&client);
        reset(&server);
    }
}

/// Makes the closing of the connection a reset: the peer gets an error, not an end.
fn reset(connection: &TcpStream) {
    let _ = connection.set_zero_linger();
}

async fn upwards(from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>, mode: &mut watch::Receiver<Mode>) {
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut chunk).await {
        if mode.wait_for(|m| !m.stalled).await.is_err() || to.write_all(&chunk[..n]).await.is_err() {
            return;
        }
    }
}

async fn downwards(from: &mut ReadHalf<'_>, to: &mut WriteHalf<'_>, state: &State, mode: &mut watch::Receiver<Mode>) {
    let mut chunk = vec![0; 64 * 1024];
    while let Ok(n @ 1..) = from.read(&mut chunk).await {
        if mode.wait_for(|m| !m.stalled).await.is_err() {
            return;
        }
        for (old, new) in &state.renamed {
            for at in 0..(n + 1).saturating_sub(old.len()) {
                if chunk[at..].starts_with(old) {
                    chunk[at..at + new.len()].copy_from_slice(new);
                }
            }
        }
        let (pass, last) = state.allow(n);
        if to.write_all(&chunk[..pass]).await.is_err() {
            return;
        }
        if last {
            return state.cut(false);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;
    use crate::wait_for;

    /// A server that sends everything back.
    async fn echo() -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut c, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = c.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        addr.to_string()
    }

    async fn ask(c: &mut TcpStream, text: &[u8]) -> std::io::Result<Vec<u8>> {
        c.write_all(text).await?;
        let mut answer = vec![0; text.len()];
        c.read_exact(&mut answer).await?;
        Ok(answer)
    }

    #[tokio::test]
    async fn a_stall_holds_bytes_and_closes_nothing() {
        let proxy = Proxy::start(echo().await).await;
        let mut c = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(ask(&mut c, b"one").await.unwrap(), b"one");
        proxy.stall();
        c.write_all(b"two").await.unwrap();
        let mut answer = [0; 3];
        assert!(timeout(Duration::from_millis(200), c.read_exact(&mut answer)).await.is_err());
        proxy.resume();
        c.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"two");
        assert_eq!((proxy.connections(), proxy.accepted(), proxy.cuts()), (1, 1, 0));
    }

    #[tokio::test]
    async fn a_stalled_connection_can_be_cut() {
        let proxy = Proxy::start(echo().await).await;
        let mut c = TcpStream::connect(proxy.addr()).await.unwrap();
        ask(&mut c, b"one").await.unwrap();
        proxy.stall();
        c.write_all(b"two").await.unwrap();
        proxy.cut();
        c.read_u8().await.unwrap_err();
        wait_for("the connection to be gone", || async { proxy.connections() == 0 }).await;
        let mut refused = TcpStream::connect(proxy.addr()).await.unwrap();
        refused.read_u8().await.unwrap_err();
        wait_for("the refusal to be counted", || async { proxy.refused() == 1 }).await;
        proxy.heal();
        let mut c = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(ask(&mut c, b"one").await.unwrap(), b"one");
        proxy.cut_once();
        c.read_u8().await.unwrap_err();
        let mut c = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(ask(&mut c, b"one").await.unwrap(), b"one");
    }

    #[tokio::test]
    async fn the_cut_comes_behind_exactly_so_many_bytes_and_once() {
        let proxy = Proxy::start(echo().await).await;
        let mut other = TcpStream::connect(proxy.addr()).await.unwrap();
        let mut c = TcpStream::connect(proxy.addr()).await.unwrap();
        ask(&mut c, b"uncounted").await.unwrap();
        proxy.cut_after_bytes(5);
        ask(&mut other, b"abc").await.unwrap();
        c.write_all(b"defgh").await.unwrap();
        let mut seen = [0; 2];
        c.read_exact(&mut seen).await.unwrap();
        assert_eq!(&seen, b"de");
        c.read_u8().await.unwrap_err();
        other.read_u8().await.unwrap_err();
        let mut c = TcpStream::connect(proxy.addr()).await.unwrap();
        assert_eq!(ask(&mut c, b"more than five bytes").await.unwrap(), b"more than five bytes");
        assert_eq!(proxy.cuts(), 1);
    }

    #[tokio::test]
    async fn an_upstream_that_is_down_looks_like_a_reset() {
        let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let proxy = Proxy::start(closed.to_string()).await;
        TcpStream::connect(proxy.addr()).await.unwrap().read_u8().await.unwrap_err();
    }

    #[tokio::test]
    async fn a_dropped_proxy_ends_its_connections() {
        let proxy = Proxy::start(echo().await).await;
        let addr = proxy.addr();
        let mut c = TcpStream::connect(&addr).await.unwrap();
        ask(&mut c, b"one").await.unwrap();
        drop(proxy);
        c.read_u8().await.unwrap_err();
        wait_for("the port to be closed", || async { TcpStream::connect(&addr).await.is_err() }).await;
    }
}
