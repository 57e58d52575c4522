//! No text makes the reading of a configuration panic; it comes to a plan or to an error; and no value of a variable is told.

use std::sync::LazyLock;

use oplogue::{
    api::Registry,
    builtin,
    config::{Level, examine},
};

static REGISTRY: LazyLock<Registry> = LazyLock::new(builtin::registry);
const SECRET: &str = "0p3n-s3s4m3";

pub fn check(text: &str) {
    // The text itself must not hold the secret: then it may be told.
    if text.contains(SECRET) {
        return;
    }
    let env = |name: &str| match name {
        "MONGO_URL" => Some(format!("mongodb://user:{SECRET}@h/")),
        "REDIS_URL" => Some(format!("redis://:{SECRET}@h")),
        "A" => Some(SECRET.to_owned()),
        _ => None,
    };
    let loaded = examine(text, "fuzz.toml", &env, &REGISTRY);
    assert_eq!(loaded.plan.is_some(), loaded.diagnostics.count(Level::Error) == 0);
    let told = loaded.diagnostics.render(true);
    assert!(!told.contains(SECRET), "{told}");
}
