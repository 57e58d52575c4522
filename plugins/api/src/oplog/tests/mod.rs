mod changes;
mod commands;
mod entries;
mod generate;
mod properties;
mod replicated;
mod transactions;

use bson::{Document, RawDocumentBuf, Timestamp, doc};

use super::{Decoded, Decoder, Outcome};
use crate::{BadEvent, Change, Doc, Event};

fn raw(doc: &Document) -> RawDocumentBuf {
    RawDocumentBuf::try_from(doc).unwrap()
}

fn to_doc(doc: Document) -> Doc {
    Doc::from(raw(&doc))
}

/// The cluster time of the `n`-th entry.
fn at(n: u32) -> Timestamp {
    Timestamp { time: 1000, increment: n }
}

/// An entry as a server of 6.0 writes it: `fields` inside the envelope.
fn entry(n: u32, fields: Document) -> Doc {
    let mut entry = doc! {"op": "n", "ns": ""};
    entry.extend(fields);
    entry.extend(doc! {
        "ts": at(n), "t": 4_i64, "v": 2_i64, "wall": bson::DateTime::from_millis(1_700_000_000_123),
    });
    to_doc(entry)
}

/// What a decoder made of some entries.
#[derive(Default)]
struct Seen {
    events: Vec<Event>,
    bad: Vec<BadEvent>,
    outcomes: Vec<&'static str>,
}

impl Seen {
    fn of(entries: &[Doc]) -> Seen {
        Seen::with(Decoder::default(), entries)
    }

    /// Feeds the entries and looks earlier ones of a transaction up among them, as a reader does.
    fn with(mut decoder: Decoder, entries: &[Doc]) -> Seen {
        let mut seen = Seen::default();
        for entry in entries {
            let Decoded { at, outcome } = decoder.entry(entry, &mut seen.events, &mut seen.bad);
            if let Some(at) = at {
                assert_eq!(Ok(at.ts), entry.get_timestamp("ts").map_err(|_| ()));
            }
            seen.outcomes.push(match outcome {
                Outcome::Events => "events",
                Outcome::Heartbeat => "heartbeat",
                Outcome::Skipped => "skipped",
                Outcome::Partial => "partial",
                Outcome::NeedsChain(mut chain) => {
                    let mut found = Vec::new();
                    let mut back = Some(chain.previous());
                    while let Some(wanted) = back {
                        let earlier = entries.iter().find(|e| e.get_timestamp("ts").unwrap() == wanted.ts).unwrap();
                        back = match chain.link(earlier) {
                            Ok(link) => link.previous,
                            Err(error) => {
                                chain.bad(error, seen.events.len(), &mut seen.bad);
                                return seen;
                            }
                        };
                        found.push(earlier);
                    }
                    for earlier in found.into_iter().rev() {
                        decoder.chain_entry(&mut chain, earlier, &mut seen.events, &mut seen.bad);
                    }
                    decoder.chain_end(chain, &mut seen.events, &mut seen.bad);
                    "chain"
                }
            });
        }
        seen
    }

    /// One line an event: `index op ns key after change -> to`, absent parts left out.
    fn lines(&self) -> Vec<String> {
        let show = |doc: &Doc| {
            Document::try_from(&**doc).unwrap().to_string().replace('"', "").replace("{ ", "{").replace(" }", "}")
        };
        self.events
            .iter()
            .map(|e| {
                let mut line = format!("{} {} {}", e.index, e.op.name(), e.ns);
                if let Some(key) = &e.key {
                    line += &format!(" {}", show(key));
                }
                if let Some(after) = &e.after {
                    line += &format!(" after {}", show(after));
                }
                match &e.change {
                    Some(Change::OplogV1(d)) => line += &format!(" v1 {}", show(d)),
                    Some(Change::OplogV2(d)) => line += &format!(" v2 {}", show(d)),
                    Some(Change::ChangeStream(d)) => line += &format!(" stream {}", show(d)),
                    None => {}
                }
                if let Some(to) = &e.to {
                    line += &format!(" -> {to}");
                }
                line
            })
            .collect()
    }
}
