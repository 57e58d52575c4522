//! The only list of bundled plugins.

use oplogue_api::Registry;

/// All plugins that come with oplogue.
pub fn registry() -> Registry {
    let mut registry = Registry::default();
    oplogue_basic::register(&mut registry);
    oplogue_external::register(&mut registry);
    oplogue_mongo::register(&mut registry);
    oplogue_redis::register(&mut registry);
    oplogue_script::register(&mut registry);
    registry
}
