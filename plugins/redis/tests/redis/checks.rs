use oplogue_api::{Finding, Severity};
use oplogue_testkit::servers::{self, Redis, RedisOptions};

use crate::support::{Place, Subscriber, store};

fn has(findings: &[Finding], severity: Severity, what: &str) -> bool {
    findings.iter().any(|f| f.severity == severity && f.what.contains(what))
}

#[tokio::test]
async fn a_sound_redis_has_nothing_but_good_news() {
    let redis = Redis::start(RedisOptions { appendonly: true, ..Default::default() }).await;
    let place = Place::new(redis.url());
    let subscriber = Subscriber::new(redis.client(), &["*".to_owned()]).await;
    let sink = place.sink();
    let findings = [sink.check().await, store(&[("url", &redis.url())]).check().await].concat();
    assert!(findings.iter().all(|f| f.severity == Severity::Ok), "{findings:?}");
    for what in ["reachable", "master", "version", "may publish", "can be read", "can be written", "scripts can run"] {
        assert!(has(&findings, Severity::Ok, what), "{what}: {findings:?}");
    }
    // It looked, and left no trace.
    assert_eq!(subscriber.all().await, []);
    let mut connection = redis.connection().await;
    let keys: usize = redis::cmd("DBSIZE").query_async(&mut connection).await.unwrap();
    assert_eq!(keys, 0);
}

#[tokio::test]
async fn what_is_wrong_is_found_before_it_hurts() {
    let users = vec![
        "narrow on >pw ~oplogue::* &other.* +@all".to_owned(),
        "blind on >pw ~oplogue::* &* +eval +evalsha +publish +hmget +hset +hdel".to_owned(),
        "no-script on >pw ~* &* +@all -eval -evalsha".to_owned(),
        "no-key on >pw ~mine* &* +@all".to_owned(),
    ];
    let lines = vec!["maxmemory 1gb".to_owned(), "maxmemory-policy allkeys-lru".to_owned()];
    let redis = Redis::start(RedisOptions { users, lines, ..Default::default() }).await;
    let check = async |user: &str, prefix: &str| {
        let place = Place::new(format!("redis://{user}:pw@{}", redis.addr()));
        place.sink_with(&[("prefix", prefix)]).check().await
    };
    let findings = check("narrow", "app.").await;
    assert!(has(&findings, Severity::Error, "may not publish"), "{findings:?}");
    assert!(has(&findings, Severity::Warning, "remove any key"), "{findings:?}");
    assert!(has(&findings, Severity::Warning, "appendonly"), "{findings:?}");
    let findings = check("narrow", "other.").await;
    assert!(has(&findings, Severity::Ok, "may publish"), "{findings:?}");
    // Each prefix is asked for.
    let place = Place::new(format!("redis://narrow:pw@{}", redis.addr()));
    let options = format!("url = \"{}\"\nprefix = \"other.\"\nprefixes = {{ crm = \"crm.\" }}", place.url);
    let findings = place.sink_toml(&options).check().await;
    assert!(has(&findings, Severity::Ok, "may publish to other.*"), "{findings:?}");
    assert!(has(&findings, Severity::Error, "may not publish to crm.*"), "{findings:?}");
    let findings = check("blind", "app.").await;
    assert!(!findings.iter().any(|f| f.severity == Severity::Error), "{findings:?}");
    assert!(has(&findings, Severity::Warning, "not visible"), "{findings:?}");
    let findings = check("no-script", "app.").await;
    assert!(has(&findings, Severity::Error, "NOPERM") && has(&findings, Severity::Error, "EVALSHA"), "{findings:?}");
    let findings = check("no-key", "app.").await;
    assert!(has(&findings, Severity::Error, "NOPERM"), "{findings:?}");
    for f in findings.iter().filter(|f| f.severity != Severity::Ok) {
        assert!(f.hint.is_some(), "{f:?}");
    }
}

#[tokio::test]
async fn a_replica_and_a_dead_end_are_errors() {
    let master = servers::redis().await;
    let replica = Redis::start(RedisOptions { replica_of: Some(master.port()), ..Default::default() }).await;
    let findings = Place::new(replica.url()).sink().check().await;
    assert!(findings.iter().any(|f| f.severity == Severity::Error), "{findings:?}");
    let findings = store(&[("url", "redis://127.0.0.1:1")]).check().await;
    assert!(has(&findings, Severity::Error, "connection refused"), "{findings:?}");
}
