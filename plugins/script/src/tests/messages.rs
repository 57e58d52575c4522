use bson::rawdoc;

use super::{insert, one, run, with};

fn refused(options: &str) -> (String, Option<String>) {
    let Err(e) = with(options) else { panic!("taken: {options}") };
    assert_eq!(e.kind(), oplogue_api::ErrorKind::Operator);
    (e.to_string(), e.field().map(str::to_owned))
}

#[test]
fn a_script_that_is_none_is_shown_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("mine.js");
    std::fs::write(&file, "function transform(event) {\n  let x = ;\n  return event;\n}\n").unwrap();
    let (said, field) = refused(&format!("file = '{}'", file.display()));
    assert_eq!(field.as_deref(), Some("file"));
    assert!(said.contains("mine.js:2:11: "), "{said}");
    assert!(said.contains("\n 2 |   let x = ;\n   |           ^"), "{said}");

    for (options, field, words) in [
        ("code = 'let transform = 1'", "code", "defines no function `transform`"),
        ("code = 'missing()'", "code", "code:1:1: ReferenceError: missing is not defined"),
        ("code = 'throw 5'", "code", "throws while it is loaded"),
        ("code = 'for (;;);'", "code", "loading it takes too long"),
        ("code = 'new Uint8Array(2**30)'", "code", "more than `memory`"),
        ("code = 'export default 1'", "code", "code:1:1: "),
        ("file = '/nowhere/x.js'", "file", "cannot read /nowhere/x.js"),
        ("file = '/dev/zero'", "file", "it is no file"),
        ("code = '1'\nfile = 'x'", "code", "both given"),
        ("code = '1'\ntime = '11s'", "time", "from 1ms to 10s"),
        ("code = '1'\nmemory = '1KiB'", "memory", "from 1MiB to 1GiB"),
    ] {
        let (said, found) = refused(options);
        assert_eq!(found.as_deref(), Some(field), "{options}");
        assert!(said.contains(words), "{options}: {said}");
    }
    assert!(refused("").0.contains("a script is missing"));
}

#[tokio::test]
async fn errors_tell_the_place_and_nothing_of_the_event() {
    let code = "function transform(event) {\n  const rate = event.after.rates[event.after.currency];\n  throw new Error(`no rate for ${event.after.currency}`);\n}";
    let groschen = || insert(rawdoc! {"_id": 1, "currency": "Groschen", "rates": {}});
    assert_eq!(run(code, groschen()).await.unwrap_err(), "code:3:34: no rate for …");
    let e = run(code, insert(rawdoc! {"_id": 1, "currency": "Groschen"})).await.unwrap_err();
    assert!(e.starts_with("code:2:") && e.contains("TypeError: cannot read property '…' of undefined"), "{e}");
    for thrown in [
        "event.after.currency",
        "new TypeError(event.after.currency)",
        "{ message: event.after.currency }",
        "null",
        "undefined",
        "Object.assign(new Error('x'), { name: event.after.currency, stack: event.after.currency })",
    ] {
        let e = run(&format!("function transform(event) {{ throw {thrown}; }}"), groschen()).await.unwrap_err();
        assert!(!e.contains("Groschen"), "{thrown}: {e}");
    }
    let odd = "function transform(event) { event.after = { _id: 1, [event.after.currency]: Symbol() }; return event; }";
    assert!(run(odd, groschen()).await.unwrap_err().starts_with("code: `after.…`: a function, symbol"));

    let mut shows = with(&format!("log = true\ncode = '''{code}'''")).unwrap();
    assert_eq!(one(&mut shows, groschen()).await.unwrap_err(), "code:3:34: no rate for Groschen");
}
