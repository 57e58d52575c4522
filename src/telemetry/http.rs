//! The HTTP interface: `/metrics`, `/healthz`, `/readyz`, `/api/v1/routes`. It only shows, except that `/denylist`, where there
//! is one, can be changed.
//!
//! One request a connection, ten seconds for all of it, a few dozen connections at once: whoever is slow or hostile
//! costs that and no more. Nothing reads a request's body.

use std::{
    io,
    net::{SocketAddr, TcpListener as StdListener},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    thread::JoinHandle,
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderValue, StatusCode, header},
    middleware,
    response::{IntoResponse, Response},
    routing::{any, get},
    serve::Listener,
};
use oplogue_api::{Error, Result};
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Sleep, sleep},
};
use tokio_util::sync::CancellationToken;

use super::Telemetry;
use crate::engine::status::{Reason, RouteState, RouteView};

/// Connections that are served at once; more wait to be accepted.
const MOST_CONNECTIONS: usize = 64;
/// From accepting a connection to the last byte of the answer.
const DEADLINE: Duration = Duration::from_secs(10);
/// What answers under way get when the process ends.
const GRACE: Duration = Duration::from_secs(1);

const INDEX: &str = "\
oplogue

/metrics         metrics in Prometheus' text format
/healthz         whether the process lives
/readyz          whether every route runs, and why not
/api/v1/routes   every route in detail
";

/// Takes the address. Done before anything else is started, so that a port that is in use ends the program early.
///
/// # Errors
/// [`Operator`](oplogue_api::ErrorKind::Operator).
pub fn bind(address: SocketAddr) -> Result<StdListener> {
    let bound = StdListener::bind(address).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    bound.map_err(|e| refused(address, e))
}

fn refused(address: SocketAddr, e: io::Error) -> Error {
    let hint = match e.kind() {
        io::ErrorKind::AddrInUse => {
            "another program, maybe another oplogue, listens there: stop it, or choose another port in [http] listen"
        }
        io::ErrorKind::PermissionDenied => "choose a port above 1023 in [http] listen",
        io::ErrorKind::AddrNotAvailable => {
            "[http] listen must be an address of this machine; 0.0.0.0 means all of them"
        }
        _ => "choose another address in [http] listen",
    };
    Error::operator(format!("cannot listen on {address} for HTTP")).hint(hint).caused_by(e)
}

/// An address that is taken, on which nobody is answered yet: a connection is refused.
pub struct Reserved {
    socket: TcpSocket,
    address: SocketAddr,
}

/// Takes the address without listening on it.
///
/// # Errors
/// [`Operator`](oplogue_api::ErrorKind::Operator).
pub fn reserve(address: SocketAddr) -> Result<Reserved> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
    let bound = socket.and_then(|socket| {
        // As a listener has it: the port of a process that has just ended can be had at once.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        Ok(socket)
    });
    Ok(Reserved { socket: bound.map_err(|e| refused(address, e))?, address })
}

impl Reserved {
    /// Listens from now on. Inside a runtime only.
    ///
    /// # Errors
    /// [`Operator`](oplogue_api::ErrorKind::Operator) when somebody else listens there by now.
    pub fn listen(self) -> Result<StdListener> {
        let listening = self.socket.listen(1024).and_then(TcpListener::into_std);
        listening.map_err(|e| refused(self.address, e))
    }
}

/// The HTTP interface on a thread and a runtime of its own, so that it answers however busy the routes are.
pub struct HttpThread {
    address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl HttpThread {
    /// Binds and starts.
    ///
    /// # Errors
    /// [`Operator`](oplogue_api::ErrorKind::Operator) when the address cannot be had.
    pub fn start(address: SocketAddr, telemetry: Arc<Telemetry>) -> Result<HttpThread> {
        HttpThread::start_on(bind(address)?, telemetry)
    }

    /// Starts on what [`bind`] gave.
    ///
    /// # Errors
    /// [`Operator`](oplogue_api::ErrorKind::Operator) when the system refuses a thread or a socket.
    pub fn start_on(listener: StdListener, telemetry: Arc<Telemetry>) -> Result<HttpThread> {
        let failed = |e: io::Error| Error::operator("cannot start the HTTP interface").caused_by(e);
        let address = listener.local_addr().map_err(failed)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(failed)?;
        let listener = {
            let _inside = runtime.enter();
            TcpListener::from_std(listener).map_err(failed)?
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let thread = std::thread::Builder::new()
            .name("http".into())
            .spawn(move || runtime.block_on(serve(listener, telemetry, stopped)))
            .map_err(failed)?;
        Ok(HttpThread { address, stop, thread: Some(thread) })
    }

    /// Where it listens: the port that was chosen, if 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Ends it. Answers under way get a second. Dropping does the same.
    pub fn stop(mut self) {
        self.end();
    }

    fn end(&mut self) {
        self.stop.cancel();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the HTTP interface panicked");
        }
    }
}

impl Drop for HttpThread {
    fn drop(&mut self) {
        self.end();
    }
}

/// Answers until `shutdown`.
pub async fn serve(listener: TcpListener, telemetry: Arc<Telemetry>, shutdown: CancellationToken) {
    serve_within(listener, telemetry, shutdown, DEADLINE).await;
}

async fn serve_within(
    listener: TcpListener,
    telemetry: Arc<Telemetry>,
    shutdown: CancellationToken,
    deadline: Duration,
) {
    let bounded = Bounded { listener, places: Arc::new(Semaphore::new(MOST_CONNECTIONS)), deadline };
    let serving = axum::serve(bounded, router(telemetry)).with_graceful_shutdown(shutdown.clone().cancelled_owned());
    tokio::select! {
        result = async { serving.await } => {
            if let Err(e) = result {
                tracing::error!(error = %e, "the HTTP interface has ended");
            }
        }
        () = async { shutdown.cancelled().await; sleep(GRACE).await } => {}
    }
}

fn router(telemetry: Arc<Telemetry>) -> Router {
    let health = if telemetry.otr.is_some() { any(otr::healthz) } else { get(healthz) };
    let mut router = Router::new();
    if telemetry.denylist.is_some() {
        router = router
            .route("/denylist", any(otr::denylist))
            .route("/denylist/", any(otr::denylist_entry))
            .route("/denylist/{*database}", any(otr::denylist_entry));
    }
    router
        .route("/", get(index))
        .route("/metrics", get(metrics))
        .route("/healthz", health)
        .route("/readyz", get(readyz))
        .route("/api/v1/routes", get(routes))
        .fallback(async |telemetry| {
            (StatusCode::NOT_FOUND, format!("there is no such page; there is:\n\n{}", index(telemetry).await))
        })
        .layer(middleware::map_response(finish))
        .with_state(telemetry)
}

async fn finish(mut response: Response) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

async fn index(State(telemetry): State<Arc<Telemetry>>) -> String {
    let denylist =
        "/denylist        the databases whose events are dropped; PUT and DELETE /denylist/DATABASE change it\n";
    format!("{INDEX}{}", if telemetry.denylist.is_some() { denylist } else { "" })
}

async fn metrics(State(telemetry): State<Arc<Telemetry>>) -> impl IntoResponse {
    let text = telemetry.render();
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text)
}

async fn healthz(State(telemetry): State<Arc<Telemetry>>) -> (StatusCode, &'static str) {
    if telemetry.is_alive() {
        (StatusCode::OK, "ok\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the router's loop does not answer\n")
    }
}

/// The answer of `/readyz`.
#[derive(Serialize)]
struct Readiness {
    ready: bool,
    routes: Vec<RouteReadiness>,
}

#[derive(Serialize)]
struct RouteReadiness {
    name: String,
    ready: bool,
    state: RouteState,
    state_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
}

async fn readyz(State(telemetry): State<Arc<Telemetry>>) -> impl IntoResponse {
    let routes: Vec<RouteReadiness> = telemetry
        .routes
        .iter()
        .map(|route| {
            let RouteView { name, state, state_seconds, reason, .. } = route.snapshot();
            RouteReadiness { name, ready: state.is_up(), state, state_seconds, reason }
        })
        .collect();
    // From the same look as the routes, so that the two never contradict each other.
    let ready = routes.iter().all(|route| route.ready);
    let code = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(Readiness { ready, routes }))
}

/// The answer of `/api/v1/routes`.
#[derive(Serialize)]
struct Routes {
    routes: Vec<RouteView>,
}

async fn routes(State(telemetry): State<Arc<Telemetry>>) -> impl IntoResponse {
    Json(Routes { routes: telemetry.routes.iter().map(|route| route.snapshot()).collect() })
}

/// A listener whose connections are few, and end after a time.
struct Bounded {
    listener: TcpListener,
    places: Arc<Semaphore>,
    deadline: Duration,
}

impl Listener for Bounded {
    type Io = Timed;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Timed, SocketAddr) {
        let place = Arc::clone(&self.places).acquire_owned().await.expect("the semaphore is never closed");
        // Axum's own accept goes on after errors, slowly when descriptors have run out.
        let (stream, peer) = Listener::accept(&mut self.listener).await;
        (Timed { stream, end: Box::pin(sleep(self.deadline)), _place: place }, peer)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// A connection that fails when its time is over.
struct Timed {
    stream: TcpStream,
    end: Pin<Box<Sleep>>,
    _place: OwnedSemaphorePermit,
}

impl Timed {
    fn in_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.end.as_mut().poll(cx).is_ready() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(()) }
    }
}

impl AsyncRead for Timed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.in_time(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Timed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.in_time(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.in_time(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

mod otr;
#[cfg(test)]
mod tests;
