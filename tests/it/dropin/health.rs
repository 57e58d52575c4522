//! `/healthz`: the original's bytes, at once, whatever hangs.

use std::time::{Duration, Instant};

use oplogue_testkit::servers::{Mongo, MongoOptions, Redis, RedisOptions};

use super::DropIn;

const WELL: &str = "{\"mongoOK\":true,\"redisOK\":true}\n";
const NO_MONGO: &str = "{\"mongoOK\":false,\"redisOK\":true}\n";
const NO_REDIS: &str = "{\"mongoOK\":true,\"redisOK\":false}\n";

/// Waits until it says so. No answer may take as long as the ping of a hanging server would.
fn wait_for(dropin: &mut DropIn, code: u16, body: &str) {
    dropin.wait(body, |o| {
        let began = Instant::now();
        let answer = o.http("GET", "/healthz");
        assert!(began.elapsed() < Duration::from_secs(9), "{:?}", began.elapsed());
        answer == (code, body.to_owned())
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_that_of_the_original_while_all_is_well_and_when_a_server_hangs_or_is_gone() {
    let mongo = Mongo::start(MongoOptions::default()).await;
    let redis = Redis::start(RedisOptions::default()).await;
    let other = Redis::start(RedisOptions::default()).await;
    let mut dropin = DropIn::new(&mongo.uri(), &format!("{},{}", redis.url(), other.url()), "h::", &[]);
    dropin.start();
    for method in ["GET", "POST", "PUT", "DELETE", "OPTIONS"] {
        let (code, body, head) = dropin.ask(method, "/healthz").unwrap();
        assert_eq!((code, body.as_str()), (200, WELL), "{method}");
        assert!(head.contains("content-type: text/plain"), "{head}");
    }
    // Idle: nothing is written that could fail.
    other.pause();
    wait_for(&mut dropin, 500, NO_REDIS);
    other.resume();
    wait_for(&mut dropin, 200, WELL);

    mongo.pause(0);
    wait_for(&mut dropin, 500, NO_MONGO);
    mongo.resume(0);
    wait_for(&mut dropin, 200, WELL);

    redis.kill().await;
    wait_for(&mut dropin, 500, NO_REDIS);
    redis.start_again().await;
    wait_for(&mut dropin, 200, WELL);

    mongo.stop(0).await;
    wait_for(&mut dropin, 500, NO_MONGO);
    mongo.start_member(0).await;
    wait_for(&mut dropin, 200, WELL);
    assert!(dropin.terminate().0.success());
}

/// A route that has stopped for good is not well, whoever answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_route_that_has_stopped_is_not_well() {
    let mongo = oplogue_testkit::servers::mongo().await;
    let well = Redis::start(RedisOptions::default()).await;
    let refuses = Redis::start(RedisOptions { password: Some("right".into()), ..RedisOptions::default() }).await;
    let wrong = format!("redis://:wrong@{}", refuses.addr());
    let mut dropin = DropIn::new(&mongo.uri(), &format!("{},{wrong}", well.url()), "h::", &[]);
    dropin.start();
    wait_for(&mut dropin, 500, NO_REDIS);
    let (code, ready) = dropin.http("GET", "/readyz");
    assert!(code == 503 && ready.contains("stopped"), "{ready}");
}
