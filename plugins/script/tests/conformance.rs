//! The conformance kit, over scripts of several kinds.

use oplogue_api::{Context, Options, Registry, Transform};
use oplogue_testkit::conformance;

fn script(code: &str) -> Box<dyn Transform> {
    let mut registry = Registry::default();
    oplogue_script::register(&mut registry);
    let table = toml::Table::from_iter([("code".to_owned(), toml::Value::from(code))]);
    let plugin = &registry.transforms["script"];
    (plugin.build)(&Context::default(), &Options::new(table)).unwrap_or_else(|e| panic!("{e}\n{code}"))
}

#[test]
fn scripts_keep_the_contract() {
    for code in [
        "function transform(event) { return event; }",
        "function transform() { return null; }",
        "function transform(event) { throw new Error('no'); }",
        "function transform(event) { if (event.after) event.after.seen = event.id; return event; }",
        "function transform(event) {
            if (event.op === 'delete') return null;
            if (event.after?.n % 5 === 0) throw new Error('five');
            if (event.after) { const { _id, n } = event.after; event.after = { _id, n: n + 1, size: Object.keys(event.after).length }; }
            if (event.update) event.update.set.seen = true;
            if (event.key && event.ns === 'kit.a') event.ns = 'kit.c';
            return event;
        }",
    ] {
        let report = conformance::transform(&|| script(code));
        assert!(report.skipped_clauses().is_empty(), "{code}");
    }
}
