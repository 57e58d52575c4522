//! `oplogue check --connect`: could this Redis be used? Looks, and changes nothing.

use oplogue_api::{Error, ErrorKind, Finding, Severity};
use redis::{Cmd, Value};

use crate::{
    link::{Answer, Link, Survey, Verdict, Vote, text},
    marks::{Marks, hash_probes, words},
};

/// A line of INFO.
fn line<'a>(info: &'a str, name: &str) -> Option<&'a str> {
    info.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

/// What both plugins need of a server. `Err`: there is no point in looking further.
async fn server(link: &Link) -> Result<Vec<Finding>, Vec<Finding>> {
    let survey = link.survey().await;
    let mut found = Vec::new();
    if let Survey::Sentinel(name, answers, verdict) = &survey {
        sentinels(name, answers, verdict, &mut found)?;
    }
    // To connect is to have found a master.
    match link.call(&redis::cmd("PING")).await {
        Ok(Ok(_)) => found.push(Finding::ok(format!("{}: Redis is reachable and lets the user in", link.place()))),
        // PING may be forbidden, which shows that the user is in.
        Ok(Err(e)) if e.code() == Some("NOPERM") => {
            found.push(Finding::ok(format!("{}: Redis is reachable and lets the user in", link.place())));
        }
        Ok(Err(e)) => found.push(crate::reply::from_redis(&e, link.place()).into()),
        Err(e) => found.push(e.into()),
    }
    if found.last().is_some_and(|f| f.severity == Severity::Error) {
        return Err(found);
    }
    match &survey {
        Survey::Cluster(nodes) => {
            found.push(Finding::ok(format!("it is a Redis Cluster of {} nodes", nodes.len())));
            if nodes.len() < 2 {
                found.push(Finding::warning(
                    "the cluster has no other node that could take over",
                    "add replicas, or use a Redis without cluster mode",
                ));
            }
        }
        Survey::Static(count) => found.push(Finding::ok(format!("of {count} Redis, one is the master"))),
        Survey::One | Survey::Sentinel(..) => found.push(Finding::ok("it is a master")),
    }
    let info = match link.call(redis::cmd("INFO").arg("everything")).await {
        Ok(Ok(info)) => text(&info),
        _ => None,
    };
    let Some(info) = info else {
        found.push(Finding::warning(
            "version and settings are not visible to this user",
            "allow +info to have them checked",
        ));
        return Ok(found);
    };
    let version = line(&info, "redis_version").unwrap_or("unknown");
    let major: u32 = version.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    found.push(if major >= 5 {
        Finding::ok(format!("version {version}"))
    } else {
        Finding::warning(format!("version {version} is not tested"), "use Redis 5 or later")
    });
    if line(&info, "redis_mode") == Some("cluster") && !link.is_cluster() {
        found.push(Finding::warning(
            "it runs in cluster mode, and this user may not ask for the other nodes",
            "ACL SETUSER <user> +cluster|slots: without them the loss of this node stops the route",
        ));
    }
    if line(&info, "maxmemory").is_some_and(|m| m != "0")
        && line(&info, "maxmemory_policy").is_some_and(|p| p.starts_with("allkeys"))
    {
        found.push(Finding::warning(
            "Redis may remove any key when memory is short, and so the position of the route",
            "set maxmemory-policy to noeviction or to one of volatile-*",
        ));
    }
    if line(&info, "aof_enabled") == Some("0") {
        found.push(Finding::warning(
            "appendonly is off: a crash of Redis takes the position back to its last snapshot, and what came after it is published again",
            "set appendonly to yes",
        ));
    }
    Ok(found)
}

/// What must work, tried.
async fn probe(link: &Link, probes: Vec<(Cmd, &'static str)>, found: &mut Vec<Finding>) {
    for (command, what) in probes {
        match link.ask(&command).await {
            Ok(_) => found.push(Finding::ok(what)),
            Err(e) => found.push(e.into()),
        }
    }
}

/// Whether the user may run a command, as far as Redis tells (ACL DRYRUN, Redis 7, an administrator's right).
async fn may(link: &Link, user: &str, command: &[&str]) -> Option<bool> {
    let mut dry = redis::cmd("ACL");
    dry.arg("DRYRUN").arg(user).arg(command);
    match link.call(&dry).await {
        Ok(Ok(Value::Okay)) => Some(true),
        Ok(Ok(_)) => Some(false),
        _ => None,
    }
}

/// For the sink: the server, its key, and the channels.
pub async fn sink(link: &Link, marks: &dyn Marks, prefixes: &[Option<String>], resync: bool) -> Vec<Finding> {
    let mut found = match server(link).await {
        Ok(found) => found,
        Err(found) => return found,
    };
    probe(link, marks.probes(), &mut found).await;
    let user = match link.call(redis::cmd("ACL").arg("WHOAMI")).await {
        Ok(Ok(user)) => text(&user),
        _ => None,
    };
    let Some(user) = user else {
        found.push(Finding::warning(
            "whether the user may publish is not visible",
            "it needs +publish, +evalsha, +hset and the channels &<prefix>*",
        ));
        return found;
    };
    let mut commands = marks.commands();
    if resync {
        commands.push(words(&["CLIENT", "KILL", "TYPE", "pubsub"]));
    }
    for command in commands {
        let command: Vec<&str> = command.iter().map(String::as_str).collect();
        if may(link, &user, &command).await == Some(false) {
            let right = match &command[..] {
                ["CLIENT", ..] => "client|kill".to_owned(),
                [name, ..] => name.to_lowercase(),
                [] => continue,
            };
            found.push(
                Error::operator(format!("the user may not run {}", right.to_uppercase()))
                    .hint(format!("ACL SETUSER {user} +{right}"))
                    .into(),
            );
        }
    }
    for prefix in prefixes {
        found.push(channels(link, &user, prefix.as_deref()).await);
    }
    found
}

/// Whether the user may publish to channels that begin with the prefix; `None`: with the names of databases.
///
/// Never by publishing: whatever is no message of redis-oplog ends the process of a subscriber.
async fn channels(link: &Link, user: &str, prefix: Option<&str>) -> Finding {
    let channel = format!("{}oplogue-check", prefix.unwrap_or("oplogue-check."));
    match (may(link, user, &["PUBLISH", &channel, ""]).await, prefix) {
        (Some(true), None) => Finding::ok("the user may publish"),
        (Some(true), Some(prefix)) => Finding::ok(format!("the user may publish to {prefix}*")),
        (Some(false), Some(prefix)) => Error::operator(format!("the user may not publish to {prefix}*"))
            .hint(format!("ACL SETUSER {user} +publish &{prefix}*"))
            .into(),
        (Some(false), None) => Finding::warning(
            "the user may not publish to every channel",
            format!("make sure that each database's channels are allowed: ACL SETUSER {user} +publish &<database>.*"),
        ),
        (None, _) => Finding::warning(
            "whether the user may publish is not visible",
            "it needs +publish and the channels &<prefix>*; with +acl|dryrun this could be checked",
        ),
    }
}

/// For the store: the server and the key.
pub async fn store(link: &Link, metadata_prefix: &str) -> Vec<Finding> {
    match server(link).await {
        Ok(mut found) => {
            let key = format!("{metadata_prefix}checkpoint::oplogue-check");
            probe(link, hash_probes(&key), &mut found).await;
            found
        }
        Err(found) => found,
    }
}

/// What the sentinels say, and whether they could replace the master.
fn sentinels(
    name: &str,
    answers: &[(String, Answer)],
    verdict: &Verdict,
    found: &mut Vec<Finding>,
) -> Result<(), Vec<Finding>> {
    let mut votes: Vec<&Vote> = Vec::new();
    for (address, answer) in answers {
        match answer {
            Answer::Says(_, vote) => votes.push(vote),
            Answer::Failed(refusal) if refusal.kind == ErrorKind::Operator => found.push(refusal.error().into()),
            Answer::Failed(refusal) => found.push(Finding::warning(refusal.what.clone(), refusal.hint.clone())),
            Answer::NoSuchMaster(_) => found.push(Finding::warning(
                format!("{address}: this sentinel knows no master of the name {name}"),
                "let it monitor that master, or remove it from `nodes`",
            )),
            Answer::Pending => {}
        }
    }
    let master = match verdict {
        Verdict::Accept(master) => master,
        Verdict::Unsure(refusal) | Verdict::Leave(refusal) => {
            let error = refusal.error();
            found.push(error.into());
            return Err(std::mem::take(found));
        }
    };
    let quorum = votes.iter().map(|v| v.quorum).max().unwrap_or(0);
    let agreed = votes.iter().filter(|v| v.address == master.address).count();
    found.push(Finding::ok(format!(
        "{agreed} of {} sentinels name {} as {name}, epoch {}, quorum {quorum}",
        answers.len(),
        master.address,
        master.epoch
    )));
    if votes.iter().any(|v| v.quorum != quorum) {
        found.push(Finding::warning("the sentinels have different quorums", "set one with SENTINEL SET … quorum"));
    }
    if answers.len() < 3 {
        found.push(Finding::warning(
            format!("only {} of the sentinels are known: the loss of one stops a failover", answers.len()),
            "run three or more, on machines of their own",
        ));
    }
    let replicas = votes.iter().map(|v| v.replicas).max().unwrap_or(0);
    found.push(if replicas == 0 {
        Finding::warning("the sentinels know no replica that could take over", "add a replica")
    } else {
        Finding::ok(format!("{replicas} replicas are known"))
    });
    Ok(())
}
