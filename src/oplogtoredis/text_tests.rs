use super::*;
use crate::oplogtoredis::env;

fn text(set: &[(&str, &str)]) -> String {
    let set: Vec<(String, String)> = set.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    let (settings, problems) = env::read(&move |name| set.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone()));
    assert_eq!(problems, []);
    render(&settings)
}

fn parsed(set: &[(&str, &str)]) -> toml::Table {
    let text = text(set);
    text.parse().unwrap_or_else(|e| panic!("{e}\n{text}"))
}

#[test]
fn the_text_says_what_the_environment_does() {
    let t = parsed(&[
        ("OTR_REDIS_URL", "redis://:hunter2@a,redis://:hunter2@b"),
        ("OTR_MONGO_URL", "mongodb://u:hunter2@m"),
        ("OTR_REDIS_METADATA_PREFIX", "a\"${b}\\"),
        ("OTR_TIMESTAMP_FLUSH_INTERVAL", "1ms"),
        ("OTR_MAX_CATCH_UP", "1.5s"),
        ("OTR_REDIS_DEDUPE_EXPIRATION", "90.9s"),
        ("OTR_WRITE_PARALLELISM", "3"),
        ("OTR_REDIS_BATCH_SIZE", "25"),
        ("OTR_OPLOG_V2_EXTRACT_SUBFIELD_CHANGES", "true"),
        ("OTR_LOG_DEBUG", "1"),
    ]);
    let sink = &t["sinks"]["redis-2"];
    assert_eq!(sink["url"].as_str(), Some("${OTR_REDIS_URL_2}"));
    assert_eq!(sink["metadata_prefix"].as_str(), Some("a\"$${b}\\"));
    assert_eq!((sink["dedupe"].as_str(), sink["dedupe_ttl"].as_str()), (Some("keys"), Some("90s")));
    assert_eq!((sink["ordinals"].as_integer(), sink["fields"].as_str()), (Some(3), Some("deep")));
    assert_eq!(t["state"]["redis"]["url"].as_str(), Some("${OTR_REDIS_URL_1}"));
    assert_eq!(t["engine"]["checkpoint_interval"].as_str(), Some("100ms"));
    assert_eq!(t["engine"]["max_batch"].as_integer(), Some(25));
    assert_eq!((t["log"]["level"].as_str(), t["log"]["format"].as_str()), (Some("debug"), Some("text")));
    let routes = t["routes"].as_array().unwrap();
    assert_eq!(routes.len(), 2);
    assert_eq!(routes[1]["max_catch_up"].as_str(), Some("1500ms"));
    assert_eq!(t["denylist"]["databases"].as_array().map(Vec::len), Some(1));
}

#[test]
fn without_more_it_is_what_the_original_does() {
    let set = [("OTR_REDIS_URL", "redis://:hunter2@a"), ("OTR_MONGO_URL", "mongodb://u:hunter2@m")];
    assert!(!text(&set).contains("hunter2"));
    let t = parsed(&set);
    let sink = &t["sinks"]["redis"];
    assert_eq!(sink["url"].as_str(), Some("${OTR_REDIS_URL}"));
    assert_eq!((sink["dedupe_ttl"].as_str(), sink["fields"].as_str()), (Some("150s"), Some("logged")));
    assert_eq!(t["engine"].get("max_batch"), None);
    assert_eq!((t["log"]["level"].as_str(), t["log"]["format"].as_str()), (Some("info"), Some("json")));
    assert_eq!(t["http"]["listen"].as_str(), Some("0.0.0.0:9000"));
    assert_eq!(t["http"]["style"].as_str(), Some("oplogtoredis"));
}

#[test]
fn a_redis_behind_tls_is_trusted_as_the_machine_does() {
    let set = |name: &str| match name {
        "OTR_REDIS_URL" => Some("redis://a,rediss://b".to_owned()),
        "OTR_MONGO_URL" => Some("mongodb://m".to_owned()),
        _ => None,
    };
    let (mut settings, _) = env::read(&set);
    settings.authorities = Some("/etc/a.pem".into());
    let t: toml::Table = render(&settings).parse().unwrap();
    assert_eq!(t["sinks"]["redis-2"]["ca_file"].as_str(), Some("/etc/a.pem"));
    assert_eq!(t["sinks"]["redis-1"].get("ca_file"), None);
    assert_eq!(t["state"]["redis"].get("ca_file"), None);
}
