//! `oplogue import oplogtoredis`, and `oplogue oplogtoredis`, which is also the binary when it is called by that name.

use oplogue_api::Registry;
use tracing::warn;

use super::{MISUSED, file, output, run};
use crate::{
    config,
    oplogtoredis::{self, env::Settings},
};

/// Stands for the file in messages.
const PLACE: &str = "the configuration that OTR_* comes to (oplogue import oplogtoredis)";

/// Prints the configuration.
pub fn import() -> u8 {
    let (settings, is_sound) = settings();
    if !is_sound {
        return MISUSED;
    }
    for told in oplogtoredis::unsupported(&settings) {
        output::note(&format!("warning: {told}\n"));
    }
    output::answer(&oplogtoredis::render(&settings))
}

/// Runs it.
pub fn run(registry: &Registry) -> u8 {
    file::code(start(registry))
}

fn start(registry: &Registry) -> Result<(), u8> {
    let (settings, is_sound) = settings();
    // With all there is to read, what is wrong with the URLs is told together with the rest.
    if settings.redis_urls.is_empty() || settings.mongo_url.is_empty() {
        return Err(MISUSED);
    }
    let text = oplogtoredis::render(&settings);
    let loaded = config::examine(&text, PLACE, &oplogtoredis::lookup(&settings, &process), registry);
    file::show(&loaded.diagnostics);
    let plan = loaded.plan.filter(|_| is_sound).ok_or(MISUSED)?;
    run::start(plan, || {
        for told in oplogtoredis::unsupported(&settings) {
            warn!("{told}");
        }
    })
}

fn process(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// The environment. All that is wrong with it goes to stderr; then it is not sound.
fn settings() -> (Settings, bool) {
    let (mut settings, problems) = oplogtoredis::env::read(&process);
    settings.authorities = oplogtoredis::authorities(&process);
    for problem in &problems {
        output::complain(&format!("{} {}", problem.variable, problem.message));
        output::note(&format!("  hint: {}\n", problem.help));
    }
    (settings, problems.is_empty())
}
