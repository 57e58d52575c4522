//! `oplogue check FILE [--connect]`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write as _,
    future::Future,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use oplogue_api::{CheckpointStore, Context, Error, Finding, Registry, Result, Selection, Severity, Share, Sink};

use super::{DONE, FAILED, file, graph, output, runtime};
use crate::{
    config::{CheckpointPlan, OnBadEvent, Plan, RoutePlan},
    engine::{chain, interest},
};

/// How long a server may take to answer all questions.
const PATIENCE: Duration = Duration::from_secs(15);

pub fn check(path: &Path, connect: bool, registry: &Registry) -> u8 {
    let plan = match file::plan(path, registry) {
        Ok(plan) => plan,
        Err(code) => return code,
    };
    let mut out = String::new();
    let count = plan.routes.len();
    let _ = writeln!(out, "{}: {count} route{}", path.display(), if count == 1 { "" } else { "s" });
    match graph::of(&plan) {
        Ok(routes) => out.push_str(&routes),
        // Built once already, when the file was read.
        Err(e) => {
            output::complain_of(&e);
            return FAILED;
        }
    }
    let code = output::answer(&out);
    if !connect || code != DONE {
        return code;
    }
    match file::log_quietly(&plan).and_then(|()| runtime()) {
        Ok(runtime) => {
            let code = runtime.block_on(ask(&plan));
            runtime.shutdown_timeout(Duration::from_secs(1));
            code
        }
        Err(code) => code,
    }
}

/// Who evaluates the filters at the head of the chain, a line each: `app: namespaces on the server; changed here`.
///
/// # Errors
/// What the plugins say of their options.
pub fn shares(route: &RoutePlan) -> Result<Vec<String>> {
    let context = route.context(&route.sink.name);
    let sink = route.sink.build(&context)?;
    let interest = interest(sink.as_ref(), &chain(route, &context)?);
    let shares = route.source.build(&route.context(&route.source.name))?.shares(&interest);
    let line = |(selection, share): (&Selection, Share)| {
        let side = |parts: &[String], side| (!parts.is_empty()).then(|| format!("{} {side}", parts.join(", ")));
        let sides: Vec<String> =
            [side(&share.server, "on the server"), side(&share.here, "here")].into_iter().flatten().collect();
        format!("{}: {}", selection.by, sides.join("; "))
    };
    Ok(interest.selections.iter().zip(shares).map(line).collect())
}

/// Asks everything that the plan uses, all at once, and prints the answers in order.
async fn ask(plan: &Plan) -> u8 {
    let mut asked = Vec::new();
    let mut seen = BTreeSet::new();
    let mut add = |title: String, answer: tokio::task::JoinHandle<Vec<Finding>>| asked.push((title, answer));

    for (name, node) in &plan.sources {
        let route = plan.routes.iter().find(|r| r.source.name == *name);
        let context = route.map_or_else(Context::default, |r| r.context(name));
        let node = node.clone();
        add(
            format!("source {name} ({})", node.kind),
            patiently(async move {
                match node.build(&Context { name: node.name.clone(), ..context }) {
                    Ok(mut source) => {
                        let findings = source.check().await;
                        source.close().await;
                        findings
                    }
                    Err(e) => vec![e.into()],
                }
            }),
        );
    }
    for route in &plan.routes {
        for node in &route.via {
            if seen.insert(("transform", node.name.clone())) {
                let built = node.build(&Context { name: node.name.clone(), ..route.context(&node.name) });
                add(
                    format!("transform {} ({})", node.name, node.kind),
                    patiently(async move {
                        match built {
                            Ok(mut transform) => transform.check().await,
                            Err(e) => vec![e.into()],
                        }
                    }),
                );
            }
        }
        let mut sinks = vec![&route.sink];
        if let OnBadEvent::DeadLetter(sink) = &route.on_bad_event {
            sinks.push(sink);
        }
        for node in sinks {
            if seen.insert(("sink", node.name.clone())) {
                let built = node.build(&route.context(&node.name));
                add(
                    format!("sink {} ({})", node.name, node.kind),
                    patiently(async move {
                        match built {
                            Ok(sink) => sink.check().await,
                            Err(e) => vec![e.into()],
                        }
                    }),
                );
            }
        }
        let (title, key, store) = match store(route) {
            Ok((store, place)) => (format!("checkpoints {place}"), place, Ok(store)),
            Err(e) => (format!("checkpoints of route {}", route.name), route.name.clone(), Err(e)),
        };
        if seen.insert(("store", key)) {
            add(
                title,
                patiently(async move {
                    match store {
                        Ok(store) => store.check().await,
                        Err(e) => vec![e.into()],
                    }
                }),
            );
        }
    }

    for (name, routes) in graph::groups(plan) {
        let routes: Vec<RoutePlan> = routes.into_iter().cloned().collect();
        add(format!("group {name}"), patiently(graph::positions(routes)));
    }
    if let Some(denylist) = &plan.denylist {
        let node = &denylist.store;
        let context = Context { name: node.name.clone(), state_dir: denylist.state_dir.clone(), ..Context::default() };
        let store = node.build(&context);
        add(
            format!("denylist in the store `{}`", node.kind),
            patiently(async move {
                match store {
                    Ok(store) => store.check().await,
                    Err(e) => vec![e.into()],
                }
            }),
        );
    }

    let mut worst = DONE;
    let mut told = BTreeMap::new();
    for (title, answer) in asked {
        let mut findings = answer.await.unwrap_or_else(|_| vec![Error::bug("the check panicked").into()]);
        if findings.iter().any(|f| f.severity == Severity::Error) {
            worst = FAILED;
        }
        // A sink that keeps the checkpoints has been asked twice, mostly the same.
        if let Some(whats) = title.strip_prefix("checkpoints with the ").and_then(|sink| told.get(sink)) {
            let before = findings.len();
            findings.retain(|f| f.severity == Severity::Error || !BTreeSet::contains(whats, &f.what));
            if findings.is_empty() && before > 0 {
                findings.push(Finding::ok("as the sink itself"));
            }
        }
        // Most transforms need nothing from elsewhere.
        if findings.is_empty() && title.starts_with("transform ") {
            continue;
        }
        let code = output::answer(&render(&title, &findings, output::answers_in_colour()));
        worst = worst.max(code);
        told.insert(title, findings.into_iter().map(|f| f.what).collect());
    }
    worst
}

fn patiently(check: impl Future<Output = Vec<Finding>> + Send + 'static) -> tokio::task::JoinHandle<Vec<Finding>> {
    tokio::spawn(async move {
        tokio::time::timeout(PATIENCE, check).await.unwrap_or_else(|_| {
            let late = Error::transient(format!("no answer within {} seconds", PATIENCE.as_secs()));
            vec![late.hint("see whether the server runs, and whether a firewall lies between").into()]
        })
    })
}

/// The store of a route's checkpoint, and where that is, in words.
pub fn store(route: &RoutePlan) -> Result<(Arc<dyn CheckpointStore>, String)> {
    let sink: Arc<dyn Sink> = route.sink.build(&route.context(&route.sink.name))?;
    match (&route.checkpoint, sink.checkpoints()) {
        (CheckpointPlan::Sink(_), Some(store)) => {
            Ok((store, format!("with the sink {} ({})", route.sink.name, route.sink.kind)))
        }
        (CheckpointPlan::Sink(node) | CheckpointPlan::Store(node), _) => {
            let place = match node.kind {
                "file" => {
                    let own = node.options.table().get("dir").and_then(|dir| dir.as_str()).map(PathBuf::from);
                    format!("in files under {}", own.as_ref().unwrap_or(&route.state_dir).display())
                }
                kind => format!("in the store `{kind}`"),
            };
            Ok((node.build(&route.context(&node.name))?, place))
        }
    }
}

fn render(title: &str, findings: &[Finding], colour: bool) -> String {
    let mut out = format!("{}\n", output::paint(colour, "1", title));
    if findings.is_empty() {
        out.push_str("  nothing to check\n");
    }
    for finding in findings {
        let mark = match finding.severity {
            Severity::Ok => output::paint(colour, "32", "✓"),
            Severity::Warning => output::paint(colour, "33", "!"),
            Severity::Error => output::paint(colour, "31", "✗"),
        };
        let _ = writeln!(out, "  {mark} {}", finding.what);
        if let Some(hint) = &finding.hint {
            let _ = writeln!(out, "    hint: {hint}");
        }
    }
    out
}
