//! What a chain of filter, redact and rename costs an event, without servers: batches as a source gives them, through the transforms
//! alone.

use std::time::{Duration, Instant};

use bson::{RawDocumentBuf, Timestamp, rawdoc};
use oplogue_api::{Batch, Change, Context, Doc, Event, Namespace, Op, Options, Position, Registry, Transform};

/// As many as a reply of a server holds of such documents.
const BATCH: usize = 1000;

const CHAIN: [(&str, &str); 3] = [
    ("filter", "namespaces = ['app.*', '!app.audit_*']\noperations = ['insert', 'update', 'replace', 'delete']"),
    (
        "redact",
        "fields = ['ssn', { field = 'phone', mode = 'mask', keep_last = 4 }, { field = 'address.zip', mode = 'truncate', length = 2 }]",
    ),
    (
        "rename",
        "collections = [{ from = 'app.edited', to = 'staging.edited' }]\nfields = [{ from = 'mail', to = 'email' }]",
    ),
];

/// Prints what is measured for so many events, each kind.
///
/// # Panics
/// When an event is lost on the way.
pub fn run(registry: &Registry, events: u64) {
    println!("{:<40}{:>14}", "filter + redact + rename", "an event");
    for (name, ns, is_edited) in
        [("nothing is edited", "app.plain", false), ("every event is edited", "app.edited", true)]
    {
        let mut chain: Vec<Box<dyn Transform>> = CHAIN
            .iter()
            .map(|(kind, options)| {
                let options = Options::new(options.parse().expect("the options are TOML"));
                (registry.transforms[kind].build)(&Context::default(), &options).expect("the options are sound")
            })
            .collect();
        let time = Timestamp { time: 1, increment: 1 };
        let sample: Vec<Event> = (0..BATCH).map(|i| event(i, ns, is_edited)).collect();
        let (mut spent, mut done) = (Duration::ZERO, 0);
        while done < events {
            let end = Position { token: Doc::empty(), time };
            let mut batch = Batch { events: sample.clone(), bad: Vec::new(), end, head: time, bytes: 0 };
            let start = Instant::now();
            for transform in &mut chain {
                transform.apply(&mut batch).expect("the chain is sound");
            }
            spent += start.elapsed();
            assert!(batch.events.len() == BATCH && batch.bad.is_empty());
            assert_eq!(batch.events[0].ns.db() == "staging", is_edited);
            done += BATCH as u64;
        }
        println!("{name:<40}{:>11} ns", spent.as_nanos() / u128::from(done));
    }
}

/// Inserts and updates in turn, with documents of about 400 bytes.
fn event(i: usize, ns: &str, is_edited: bool) -> Event {
    let n = i as i32;
    let name = |edited: &'static str, other| if is_edited { edited } else { other };
    let mut doc = rawdoc! {"_id": n, "name": format!("Somebody {i}"), "status": "active", "score": f64::from(n) * 1.5};
    let mut add = |name: &str, value: &str| {
        let name = bson::raw::CString::try_from(name).expect("a name of this file");
        doc.append(&name, value);
    };
    add(name("mail", "letter"), "somebody@example.com");
    add(name("ssn", "nothing"), "078-05-1120");
    add(name("phone", "telex"), "+49 30 901820");
    for field in ["first", "second", "third", "fourth"] {
        add(field, "a text of some length, as they are in documents");
    }
    doc.append(bson::cstr!("address"), rawdoc! {"street": "Invalidenstr. 1", "city": "Berlin", "country": "DE"});
    let time = Timestamp { time: 1, increment: 1 };
    let mut event = Event::new(Op::Insert, Namespace::new(ns), time, rawdoc! {"o": doc.clone()}.into());
    event.key = Some(rawdoc! {"_id": n}.into());
    if i.is_multiple_of(2) {
        event.after = Some(doc.into());
    } else {
        let zip = name("zip", "city");
        let mut address = RawDocumentBuf::new();
        address.append(&*bson::raw::CString::try_from(zip).expect("a name of this file"), "10115");
        let diff = rawdoc! {"u": {"status": "gone", "score": 1.5}, "saddress": {"u": address}};
        event.op = Op::Update;
        event.change = Some(Change::OplogV2(diff.into()));
    }
    event
}
