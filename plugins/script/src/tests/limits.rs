use bson::rawdoc;
use oplogue_api::{ErrorKind, Event, Transform};

use super::{batch, insert, pass, script, with};

fn numbered(n: i32) -> Event {
    insert(rawdoc! {"_id": 1, "n": n})
}

/// What a script can do to its engine; each is ended by a limit.
const HOSTILE: &[(&str, &str)] = &[
    ("for (;;);", "longer than 100ms"),
    ("for (;;) { try { for (;;); } catch { } }", "longer than 100ms"),
    ("(function f() { try { f() } finally { f() } })()", "longer than 100ms"),
    ("/(a+)+$/.test('a'.repeat(40) + 'b')", "longer than 100ms"),
    ("e.after = new Proxy({}, { ownKeys() { for (;;); } })", "longer than 100ms"),
    ("e.after.a = { get a() { for (;;); } }", "longer than 100ms"),
    ("let a = []; for (;;) a.push(new Array(1000).fill(a.length))", "more memory"),
    ("new Uint8Array(2 ** 30)", "more memory"),
    ("let s = 'x'.repeat(1 << 20); let all = []; for (;;) all.push(s + all.length)", "more memory"),
    ("JSON.stringify(Array(1e6).fill({ a: 'x'.repeat(100) }))", "more memory"),
    ("(function f() { f() })()", "Maximum call stack size exceeded"),
    ("let o = {}; for (let i = 0; i < 1e4; i++) o = { o }; e.after.o = o", "nested deeper than 200"),
    ("e.after.a = 'x'.repeat(17 << 20)", "larger than 16 MiB"),
];

#[tokio::test]
async fn what_runs_wild_is_contained_and_the_others_go_on() {
    for (code, words) in HOSTILE {
        // So that memory, and not time, is what runs out.
        let (time, memory) = if *words == "more memory" { ("10s", "16MiB") } else { ("100ms", "64MiB") };
        let mut script = with(&format!(
            "time = '{time}'\nmemory = '{memory}'\ncode = \"\"\"
            let seen = 0;
            function transform(e) {{ seen++; if (e.after.n === 2) {{ {} }} return e; }}\"\"\"",
            code.replace('\\', "\\\\")
        ))
        .unwrap();
        let batch = pass(&mut script, (0..5).map(numbered).collect()).await;
        let n = |event: &Event| event.after.as_ref().unwrap().get_i32("n").unwrap();
        assert_eq!(batch.events.iter().map(n).collect::<Vec<_>>(), [0, 1, 3, 4], "{code}");
        let [bad] = batch.bad.as_slice() else { panic!("{code}: {} bad events", batch.bad.len()) };
        assert_eq!((bad.before, bad.error.kind()), (2, ErrorKind::Data), "{code}");
        assert!(bad.error.to_string().contains(words), "{code}: {}", bad.error);
        // Nothing stays behind: the next batch goes on as if nothing had been.
        let batch = pass(&mut script, (5..8).map(numbered).collect()).await;
        assert_eq!((batch.events.len(), batch.bad.len()), (3, 0), "{code}");
    }
}

#[tokio::test]
async fn a_script_that_gathers_memory_harms_no_event() {
    let mut script = script(
        "const kept = []; function transform(e) { kept.push(new Uint8Array(1 << 20)); e.after.kept = kept.length; return e; }",
    );
    let batch = pass(&mut script, (0..100).map(numbered).collect()).await;
    assert_eq!((batch.events.len(), batch.bad.len()), (100, 0));
    let most = batch.events.iter().map(|e| e.after.as_ref().unwrap().get_i32("kept").unwrap()).max();
    assert!(most < Some(64), "it was never made anew: {most:?}");
}

#[tokio::test]
async fn the_smallest_memory_is_enough_for_a_script() {
    let mut script = with("code = 'function transform(e) { e.after.n++; return e; }'\nmemory = '1MiB'").unwrap();
    let batch = pass(&mut script, (0..3000).map(numbered).collect()).await;
    assert_eq!((batch.events.len(), batch.bad.len()), (3000, 0));
}

#[tokio::test]
async fn a_large_document_is_no_offence() {
    let items: Vec<bson::Document> = (0..200_000).map(|n| bson::doc! {"sku": "abcdef", "n": n, "price": 1.5}).collect();
    let large = bson::RawDocumentBuf::try_from(&bson::doc! {"_id": 1, "n": 0, "items": items}).unwrap();
    assert!(large.as_bytes().len() > 8 << 20);
    let mut script = with("code = 'function transform(e) { e.after.n++; return e; }'").unwrap();
    let batch = pass(&mut script, vec![insert(large)]).await;
    assert_eq!((batch.events.len(), batch.bad.first().map(|bad| bad.error.to_string())), (1, None));
    assert_eq!(batch.events[0].after.as_ref().unwrap().get_i32("n").unwrap(), 1);
}

#[tokio::test]
async fn a_call_that_is_dropped_ends_the_script() {
    let mut script =
        with("code = 'function transform(e) { if (e.after.n < 100) for (;;); return e; }'\ntime = '10s'").unwrap();
    let endless = batch((0..50).map(numbered).collect());
    let given_up = tokio::time::timeout(std::time::Duration::from_millis(300), script.prepare(&endless)).await;
    assert!(given_up.is_err());
    // Were the script not told, this would wait for 50 times 20 s.
    let batch = tokio::time::timeout(std::time::Duration::from_secs(100), pass(&mut script, vec![numbered(100)])).await;
    assert_eq!(batch.expect("it did not end").events.len(), 1);
}

#[tokio::test]
async fn a_function_of_the_engine_that_does_not_end_is_left_behind() {
    let mut script = script(
        "function transform(e) { if (e.after.n === 1) { const a = []; a.length = 2 ** 32 - 1; a.join(); } return e; }",
    );
    let batch = pass(&mut script, (0..3).map(numbered).collect()).await;
    assert_eq!((batch.events.len(), batch.bad.len(), batch.bad[0].before), (2, 1, 1));
    assert!(batch.bad[0].error.to_string().contains("longer than 100ms"), "{}", batch.bad[0].error);
}

#[tokio::test]
async fn nothing_of_the_machine_can_be_reached() {
    let code = "
        const names = ['require', 'process', 'fetch', 'setTimeout', 'setInterval', 'XMLHttpRequest', 'Deno', 'Bun', 'std', 'os', 'load',
          'performance', 'WeakRef', 'navigator', 'print', 'scriptArgs', 'importScripts', 'host', 'queueMicrotask'];
        const found = names.filter((name) => name in globalThis);
        if (found.length) throw new Error(found.join());
        const refused = [() => Date.now(), () => new Date(), () => Date(), () => Math.random(), () => new (class extends Date {})(),
          () => new (Object.getPrototypeOf(new Date(0)).constructor)()];
        for (const [i, f] of refused.entries()) {
          let is = false;
          try { f(); } catch (e) { is = /script has no/.test(e.message); }
          if (!is) throw new Error('refused ' + i);
        }
        if (new Date(2020, 0, 1).getFullYear() !== 2020 || !(new Date(0) instanceof Date) || Date.UTC(1970, 0) !== 0) throw new Error('Date');
        if (console.log('x') !== undefined) throw new Error('console');
        import('fs').then(() => { globalThis.reached = true; }, () => {});
        return e;";
    let mut script =
        script(&format!("function transform(e) {{ if (globalThis.reached) throw new Error('reached'); {code} }}"));
    let batch = pass(&mut script, (0..2).map(numbered).collect()).await;
    let errors: Vec<_> = batch.bad.iter().map(|bad| bad.error.to_string()).collect();
    assert_eq!((batch.events.len(), errors), (2, vec![]));
}
