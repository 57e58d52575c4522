use super::*;

fn of(set: &[(&str, &str)]) -> (Settings, Vec<Problem>) {
    let set: Vec<(String, String)> = set.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    read(&move |name| set.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()))
}

const LEAST: [(&str, &str); 2] = [("OTR_REDIS_URL", "redis://r"), ("OTR_MONGO_URL", "mongodb://m")];

fn with(more: &[(&str, &str)]) -> (Settings, Vec<Problem>) {
    of(&[&LEAST, more].concat())
}

fn good(more: &[(&str, &str)]) -> Settings {
    let (settings, problems) = with(more);
    assert_eq!(problems, [], "{more:?}");
    settings
}

#[test]
fn without_more_the_defaults_of_the_original_hold() {
    let s = good(&[]);
    assert_eq!((s.redis_urls.as_slice(), s.http.as_str()), (&["redis://r".to_owned()][..], "0.0.0.0:9000"));
    assert_eq!([s.flush_interval, s.max_catch_up, s.dedupe_expiration].map(|d| d.as_secs()), [1, 120, 150],);
    assert_eq!((s.metadata_prefix.as_str(), s.write_parallelism, s.batch_size), ("oplogtoredis::", 1, None));
    assert!(!s.deep_fields && !s.sentry && !s.postgres && !s.debug && !s.quiet);
    assert_eq!(s.seeds, ["admin"]);
}

#[test]
fn every_variable_is_read() {
    let s = good(&[
        ("OTR_HTTP_SERVER_ADDR", "127.0.0.1:1"),
        ("OTR_TIMESTAMP_FLUSH_INTERVAL", "1.5s"),
        ("OTR_MAX_CATCH_UP", "2m30s"),
        ("OTR_REDIS_DEDUPE_EXPIRATION", "1h"),
        ("OTR_REDIS_METADATA_PREFIX", ""),
        ("OTR_OPLOG_V2_EXTRACT_SUBFIELD_CHANGES", "T"),
        ("OTR_WRITE_PARALLELISM", "4"),
        ("OTR_READ_PARALLELISM", "2"),
        ("OTR_REDIS_BATCH_SIZE", "25"),
        ("OTR_BUFFER_SIZE", "5"),
        ("OTR_PG_PERSISTENCE_URL", "postgres://x"),
        ("OTR_SENTRY_ENABLED", "true"),
        ("OTR_LOG_DEBUG", "false"),
        ("OTR_LOG_QUIET", "1"),
        ("OPLOGUE_DENYLIST_SEED", "a, b,"),
        ("OPLOGUE_RESYNC", "gap,drop"),
    ]);
    assert_eq!(s.http, "127.0.0.1:1");
    assert_eq!(s.flush_interval, Duration::from_millis(1500));
    assert_eq!([s.max_catch_up, s.dedupe_expiration].map(|d| d.as_secs()), [150, 3600]);
    assert_eq!((s.metadata_prefix.as_str(), s.write_parallelism, s.batch_size), ("", 4, Some(25)));
    // Any text switches logs to debug, even this one.
    assert!(s.deep_fields && s.sentry && s.postgres && s.debug && s.quiet);
    assert_eq!((s.seeds, s.resync), (vec!["a".to_owned(), "b".to_owned()], vec!["gap".to_owned(), "drop".to_owned()]));
    assert_eq!(good(&[("OPLOGUE_DENYLIST_SEED", "")]).seeds, Vec::<String>::new());
}

#[test]
fn some_names_go_without_the_prefix_and_two_are_not_read() {
    let s = good(&[("HTTP_SERVER_ADDR", "127.0.0.1:2"), ("OPLOG_V2_EXTRACT_SUBFIELD_CHANGES", "true")]);
    assert!(s.deep_fields && s.http == "127.0.0.1:2");
    let s = good(&[("HTTP_SERVER_ADDR", "127.0.0.1:2"), ("OTR_HTTP_SERVER_ADDR", "127.0.0.1:3")]);
    assert_eq!(s.http, "127.0.0.1:3");
    assert!(good(&[("PG_PERSISTENCE_URL", "postgres://x")]).postgres);
    assert_eq!(good(&[("MAX_CATCH_UP", "1s"), ("LOG_DEBUG", "1")]).max_catch_up.as_secs(), 120);
    let s = good(&[("OTR_METADATA_PREFIX", "x"), ("OTR_IDLE_RECONNECT_TIMEOUT", "nonsense")]);
    assert_eq!(s.metadata_prefix, "oplogtoredis::");
}

#[test]
fn addresses_are_those_of_go() {
    for (given, meant) in [(":9000", "0.0.0.0:9000"), ("localhost:1", "127.0.0.1:1"), ("[::1]:5", "[::1]:5")] {
        assert_eq!(good(&[("OTR_HTTP_SERVER_ADDR", given)]).http, meant);
    }
    for wrong in ["9000", "example.com:9000", ":http", "1.2.3.4:70000"] {
        assert_eq!(with(&[("OTR_HTTP_SERVER_ADDR", wrong)]).1.len(), 1, "{wrong}");
    }
}

#[test]
fn a_comma_separates_urls_where_a_scheme_follows() {
    for (list, urls) in [
        ("redis://a", &["redis://a"][..]),
        ("redis://a,rediss://:p,w@b:1/2", &["redis://a", "rediss://:p,w@b:1/2"]),
        ("redis://a, redis://b", &["redis://a", "redis://b"]),
        (
            "redis-sentinel://s1:26379,s2:26379?sentinelMasterId=m,redis://r1",
            &["redis-sentinel://s1:26379,s2:26379?sentinelMasterId=m", "redis://r1"],
        ),
        ("redis://a,", &["redis://a,"]),
    ] {
        assert_eq!(split_urls(list), urls);
    }
}

#[test]
fn everything_wrong_is_told_at_once_with_a_remedy() {
    let (_, problems) = of(&[
        ("OTR_REDIS_URL", ""),
        ("OTR_HTTP_SERVER_ADDR", "nowhere"),
        ("OTR_BUFFER_SIZE", "many"),
        ("OTR_TIMESTAMP_FLUSH_INTERVAL", "1"),
        ("OTR_MAX_CATCH_UP", "2 minutes"),
        ("OTR_REDIS_DEDUPE_EXPIRATION", "900ms"),
        ("OTR_MONGO_CONNECT_TIMEOUT", "-1s"),
        ("OTR_MONGO_QUERY_TIMEOUT", "5"),
        ("OTR_OPLOG_V2_EXTRACT_SUBFIELD_CHANGES", "yes"),
        ("OTR_WRITE_PARALLELISM", "0"),
        ("OTR_READ_PARALLELISM", "two"),
        ("OTR_RESUME_TS_READ_RETRIES", "-1"),
        ("OTR_RESUME_TS_READ_RETRY_DELAY", "soon"),
        ("OTR_RESUME_FROM_END_ON_FAILURE", "maybe"),
        ("OTR_REDIS_BATCH_SIZE", "1.5"),
        ("OTR_SENTRY_ENABLED", "2"),
        ("OPLOGUE_RESYNC", "gap, everything"),
    ]);
    let names: std::collections::BTreeSet<_> = problems.iter().map(|p| p.variable).collect();
    assert_eq!((names.len(), problems.len()), (18, 18), "{problems:#?}");
    assert!(problems.iter().all(|p| !p.help.is_empty() && VARIABLES.contains(&p.variable)));
    let catch_up = problems.iter().find(|p| p.variable == "OTR_MAX_CATCH_UP").unwrap();
    assert!(catch_up.message.contains("`2 minutes`"), "{catch_up:?}");
}

/// No value of these is checked here, so none can be told.
#[test]
fn secrets_are_in_no_problem() {
    let secret = "hunter2";
    let set: Vec<(&str, &str)> = ["OTR_REDIS_URL", "OTR_MONGO_URL", "OTR_PG_PERSISTENCE_URL", "OTR_SENTRY_DSN"]
        .map(|name| (name, secret))
        .into_iter()
        .chain([("OTR_MAX_CATCH_UP", "x")])
        .collect();
    assert!(!format!("{:?}", of(&set).1).contains(secret));
}

#[test]
fn the_documentation_knows_every_variable_and_no_other() {
    let documented: std::collections::BTreeSet<&str> = include_str!("../../docs/oplogtoredis.md")
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(name, _)| name)
        .filter(|name| name.starts_with("OTR_") || name.starts_with("OPLOGUE_"))
        .collect();
    assert_eq!(documented, VARIABLES.into_iter().collect());
}
