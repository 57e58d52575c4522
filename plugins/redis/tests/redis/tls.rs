use oplogue_api::ErrorKind;
use oplogue_testkit::servers::{self, Redis, RedisOptions};

use crate::support::{Place, Subscriber, assert_no_secret, try_sink, write};

#[tokio::test]
async fn tls_needs_an_authority_that_is_trusted() {
    let redis = Redis::start(RedisOptions { tls: true, ..Default::default() }).await;
    let place = Place::new(redis.url());
    let ca = redis.ca_file().unwrap().display().to_string();
    let sink = place.sink_with(&[("ca_file", &ca)]);
    sink.open().await.unwrap();
    let subscriber = Subscriber::of(&place, redis.client()).await;
    write(&sink, &place.inserts(0..3), 2).await;
    assert_eq!(subscriber.on(&place.ns("tasks")).await, place.heard(0..3));
    // A file without certificates, none at all, and one that no connection would use.
    let conf = redis.folder().join("nothing.pem").display().to_string();
    let error = place.sink_with(&[("ca_file", &conf)]).open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Operator, "{error}");
    std::fs::write(&conf, "port 6379").unwrap();
    let error = place.sink_with(&[("ca_file", &conf)]).open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Operator, "{error}");
    let error = try_sink("r", &[("url", "redis://h"), ("ca_file", &ca)]).err().unwrap();
    assert_eq!(error.field(), Some("ca_file"));

    let error = Place::new(redis.url()).sink().open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    assert!(error.to_string().to_lowercase().contains("certificate"), "{error}");
    // Plain text to a TLS port, and TLS to a plain one.
    let plain = servers::redis().await;
    for url in [format!("redis://{}", redis.addr()), format!("rediss://{}", plain.addr())] {
        let error = Place::new(url).sink().open().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    }
}

#[tokio::test]
async fn a_certificate_of_the_client_is_shown_where_one_is_demanded() {
    let users = vec!["app on >s3cret ~* &* +@all".to_owned()];
    let options = RedisOptions { tls: true, client_certificates: true, users, ..Default::default() };
    let redis = Redis::start(options).await;
    let file = |path: Option<&std::path::Path>| path.unwrap().display().to_string();
    let (ca, cert, key) = (file(redis.ca_file()), file(redis.cert_file()), file(redis.key_file()));
    // With a user of an ACL, too.
    let place = Place::new(format!("rediss://app:s3cret@{}/2", redis.addr()));
    let sink = place.sink_with(&[("ca_file", &ca), ("cert_file", &cert), ("key_file", &key)]);
    sink.open().await.unwrap();
    let subscriber = Subscriber::of(&place, redis.client()).await;
    write(&sink, &place.inserts(0..3), 2).await;
    assert_eq!(subscriber.on(&place.ns("tasks")).await, place.heard(0..3));

    let error = place.sink_with(&[("ca_file", &ca)]).open().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transient, "{error}");
    assert!(error.get_hint().unwrap().contains("cert_file"), "{error} {:?}", error.get_hint());
    for (name, file) in [("cert_file", &cert), ("key_file", &key)] {
        let error = try_sink("r", &[("url", "rediss://h"), (name, file)]).err().unwrap();
        assert_eq!(error.field(), Some(name), "{error}");
    }
    let plain = [("url", "redis://h"), ("cert_file", &cert), ("key_file", &key)];
    assert_eq!(try_sink("r", &plain).err().unwrap().field(), Some("cert_file"));
    for (cert, key, named) in
        [("/nowhere", &*key, "cert_file"), (&*cert, "/nowhere", "key_file"), (&*key, &*key, "cert_file")]
    {
        let sink = place.sink_with(&[("ca_file", &ca), ("cert_file", cert), ("key_file", key)]);
        let error = sink.open().await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Operator, "{error}");
        assert!(error.message().contains(named), "{error}");
        assert_no_secret(&error, &["s3cret", "PRIVATE"]);
    }
}
