//! `oplogue run FILE`.

use std::{
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use oplogue_api::{Context, Registry, Result};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{DONE, FAILED, MISUSED, file, output, runtime};
use crate::{
    config::{DenylistPlan, HttpPlan, Plan},
    denylist::{Denylist, Keeper},
    engine::{Engine, status::RouteState},
    telemetry::{
        Telemetry,
        http::{self, HttpThread, Reserved},
        log,
        otr::Otr,
    },
};

/// After so long without being ready, it is said what is waited for.
const IMPATIENCE: Duration = Duration::from_secs(10);
/// How often trouble that lasts is told again.
const REMINDER: Duration = Duration::from_secs(60);

pub fn run(path: &Path, registry: &Registry) -> u8 {
    file::code(file::plan(path, registry).and_then(|plan| start(plan, || ())))
}

/// Runs a plan; `told` is called once there is a log.
pub fn start(plan: Plan, told: impl FnOnce()) -> Result<(), u8> {
    if plan.routes.is_empty() {
        output::complain("there is nothing to run: the file has no routes");
        return Err(MISUSED);
    }
    log::init(&plan.log).map_err(|e| file::failed(&e).max(MISUSED))?;
    told();
    let runtime = runtime()?;
    let code = runtime.block_on(supervise(plan));
    // A task that does not end must not keep the process.
    runtime.shutdown_timeout(Duration::from_secs(1));
    if code == DONE { Ok(()) } else { Err(code) }
}

async fn supervise(plan: Plan) -> u8 {
    let stop = CancellationToken::new();
    let http = plan.http;
    let grace = plan.shutdown_grace;
    let routes = plan.routes.len();
    let mut telemetry = Telemetry::new();
    telemetry.otr = http.is_some_and(|http| http.like_oplogtoredis).then(Otr::new);
    let keeper = match plan.denylist.as_ref().map(keeper).transpose() {
        Ok(keeper) => keeper,
        Err(e) => return file::failed(&e),
    };
    telemetry.denylist = keeper.as_ref().map(|(list, _)| Arc::clone(list));
    let engine = Engine::new(plan, &mut telemetry, stop.clone());
    let telemetry = Arc::new(telemetry);
    // Kept until the routes have ended, so that /readyz tells of the last of them.
    let page = match http.map(|http| Page::open(http, &telemetry, &stop)).transpose() {
        Ok(page) => page,
        Err(e) => return file::failed(&e),
    };
    let listen = http.map(|http| tracing::field::display(http.listen));
    info!(version = env!("CARGO_PKG_VERSION"), routes, http = listen, "oplogue starts");
    if let Some((_, mut keeper)) = keeper {
        // Before anything is read: what is on the list shall not be delivered.
        keeper.load().await;
        tokio::spawn(stop.clone().run_until_cancelled_owned(keeper.run()));
    }
    tokio::spawn(stop.clone().run_until_cancelled_owned(announce(Arc::clone(&telemetry))));
    tokio::spawn(stop.clone().run_until_cancelled_owned(remind(Arc::clone(&telemetry))));
    tokio::spawn(async move {
        asked_to_stop().await;
        info!(
            grace_seconds = grace.as_secs_f64(),
            "told to stop: delivering what was read; a second signal ends the process at once"
        );
        stop.cancel();
        asked_to_stop().await;
        error!("ended at once, as told twice: what was not delivered comes again at the next start");
        std::process::exit(i32::from(FAILED));
    });
    let outcome = tokio::select! {
        outcome = engine.run() => outcome,
        // /healthz is answered on another thread: this is how it knows that this one lives.
        never = telemetry.keep_beating() => match never {},
    };
    if page.is_some_and(|page| page.failed.load(Relaxed)) {
        return FAILED;
    }
    if outcome.failed.is_empty() {
        info!("oplogue has ended");
        return DONE;
    }
    // Why each of them failed was logged when it did.
    let failed: Vec<_> = outcome.failed.iter().map(|(route, _)| route.as_str()).collect();
    error!("{} of {routes} routes failed: {}", failed.len(), failed.join(", "));
    FAILED
}

/// The denylist with what keeps it.
fn keeper(plan: &DenylistPlan) -> Result<(Arc<Denylist>, Keeper)> {
    let context = Context { name: plan.store.name.clone(), state_dir: plan.state_dir.clone(), ..Context::default() };
    let list = Denylist::new(&plan.databases);
    let keeper = Keeper::new(Arc::clone(&list), plan.store.build(&context)?);
    Ok((list, keeper))
}

/// The HTTP interface: there from the start, or as soon as whoever connects may count on every later write.
#[derive(Clone, Default)]
struct Page {
    http: Arc<Mutex<Option<HttpThread>>>,
    failed: Arc<AtomicBool>,
}

impl Page {
    /// In the style of oplogtoredis the port is taken at once, and opened when every route knows where it begins, because whoever
    /// waits for the port writes as soon as it is there. A destination that is away holds that up for a while only.
    fn open(plan: HttpPlan, telemetry: &Arc<Telemetry>, stop: &CancellationToken) -> Result<Page> {
        let page = Page::default();
        if !plan.like_oplogtoredis {
            page.hold(HttpThread::start(plan.listen, Arc::clone(telemetry))?);
            return Ok(page);
        }
        let reserved = http::reserve(plan.listen)?;
        tokio::spawn(stop.clone().run_until_cancelled_owned(page.clone().wait(
            reserved,
            Arc::clone(telemetry),
            stop.clone(),
        )));
        Ok(page)
    }

    async fn wait(self, reserved: Reserved, telemetry: Arc<Telemetry>, stop: CancellationToken) {
        let began = async {
            while !telemetry.routes.iter().all(|route| route.has_begun()) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(IMPATIENCE, began).await.is_err() {
            warn!("the HTTP port opens although not every route has reached both its ends");
        }
        match reserved.listen().and_then(|listener| HttpThread::start_on(listener, telemetry)) {
            Ok(http) => self.hold(http),
            Err(e) => {
                error!(error = %e, hint = e.get_hint(), "there is no HTTP interface: ending");
                self.failed.store(true, Relaxed);
                stop.cancel();
            }
        }
    }

    fn hold(&self, http: HttpThread) {
        *self.http.lock().unwrap_or_else(PoisonError::into_inner) = Some(http);
    }
}

/// Says once that the routes run: when none of them is still on its way.
async fn announce(telemetry: Arc<Telemetry>) {
    let began = Instant::now();
    let mut told = false;
    loop {
        let states: Vec<_> = telemetry.routes.iter().map(|route| (route.name(), route.state())).collect();
        if !states.iter().any(|(_, state)| matches!(state, RouteState::Starting | RouteState::Retrying)) {
            let stopped: Vec<_> =
                states.iter().filter(|(_, state)| *state == RouteState::Stopped).map(|(name, _)| *name).collect();
            let all = states.len();
            if stopped.is_empty() {
                info!(
                    "ready: {}",
                    if all == 1 { "the route is running".into() } else { format!("all {all} routes are running") }
                );
            } else if stopped.len() < all {
                warn!("{} of {all} routes are running, without {}", all - stopped.len(), stopped.join(", "));
            }
            return;
        }
        if !told && began.elapsed() >= IMPATIENCE {
            told = true;
            let waiting: Vec<_> = states
                .iter()
                .filter(|(_, state)| matches!(state, RouteState::Starting | RouteState::Retrying))
                .map(|(name, _)| *name)
                .collect();
            warn!(
                "not ready yet: {} of {} routes still try to start: {}",
                waiting.len(),
                states.len(),
                waiting.join(", ")
            );
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Says again what has been failing for a while, since the line that told of it first may be far up.
async fn remind(telemetry: Arc<Telemetry>) {
    loop {
        tokio::time::sleep(REMINDER).await;
        for route in telemetry.routes.iter().map(|route| route.snapshot()) {
            let since = Duration::from_secs_f64(route.state_seconds);
            if route.state == RouteState::Retrying && since >= REMINDER {
                let (error, hint) = route.reason.map(|r| (r.message, r.hint)).unwrap_or_default();
                warn!(route = route.name, error, hint, "still trying again, for {} minutes now", since.as_secs() / 60);
            }
        }
    }
}

/// Returns at SIGINT or SIGTERM.
pub async fn asked_to_stop() {
    let interrupted = async {
        // Without a signal to wait for the process can still be killed.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => {
                signal.recv().await;
            }
            Err(_) => std::future::pending::<()>().await,
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        () = interrupted => {}
        () = terminated => {}
    }
}
