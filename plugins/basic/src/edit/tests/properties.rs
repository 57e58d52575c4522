use bson::{Bson, Document};
use oplogue_api::{Change, Doc, Op};
use oplogue_testkit::generate::{Rng, document};
use proptest::prelude::*;

use super::{
    super::{
        change, document as raw_document,
        tree::{Action, Otherwise, Rules},
    },
    raw,
    reference::{self, apply, sorted},
    *,
};

/// Names that the generated documents have.
const NAMES: [&str; 6] = ["a", "b", "name", "0", "1", "deep"];

fn paths(rng: &mut Rng) -> Vec<String> {
    let mut all: Vec<String> = Vec::new();
    for _ in 0..1 + rng.below(4) {
        let path = (0..1 + rng.below(3)).map(|_| NAMES[rng.below(NAMES.len())]).collect::<Vec<_>>().join(".");
        let holds = |a: &str, b: &str| a == b || b.strip_prefix(a).is_some_and(|rest| rest.starts_with('.'));
        if !all.iter().any(|other| holds(other, &path) || holds(&path, other)) {
            all.push(path);
        }
    }
    all
}

/// Some transform of a document, raw and as the reference has it.
struct Case {
    rules: Rules,
    slow: Box<dyn Fn(Document) -> Document>,
    told: String,
}

fn case(rng: &mut Rng) -> Case {
    let paths = paths(rng);
    let kind = rng.below(4);
    let told = format!("{kind} {paths:?}");
    let mut rules = Rules::new(if kind == 1 { Otherwise::Remove } else { Otherwise::Keep });
    if kind == 1 {
        rules.add("", "_id", Action::Keep).unwrap();
    }
    for path in &paths {
        let action = match kind {
            0 => Action::Remove,
            1 => Action::Keep,
            2 => Action::Rewrite(Box::new(Hide)),
            _ => match path.rsplit('.').next() {
                // An index has no name to change.
                Some(last) if reference::is_index(last) => continue,
                _ => Action::Rename(format!("new-{}", path.rsplit('.').next().unwrap()).into_bytes().into()),
            },
        };
        rules.add("", path, action).unwrap();
    }
    let slow: Box<dyn Fn(Document) -> Document> = match kind {
        0 => Box::new(move |doc| paths.iter().fold(doc, |doc, path| reference::edit_path(doc, path, &|_| None))),
        1 => Box::new(move |doc| reference::include(&doc, &paths.iter().map(String::as_str).collect::<Vec<_>>())),
        2 => Box::new(move |doc| {
            let hide = |value| Some(reference::leaves(value, &|_| Bson::from("hidden")));
            paths.iter().fold(doc, |doc, path| reference::edit_path(doc, path, &hide))
        }),
        _ => Box::new(move |doc| paths.iter().fold(doc, |doc, path| reference::rename(doc, path))),
    };
    Case { rules, slow, told }
}

struct Hide;

impl super::super::tree::Rewrite for Hide {
    fn rewrite(&self, _: oplogue_api::raw::Value<'_>, out: &mut Vec<u8>) -> Option<u8> {
        change::write_text(out, b"hidden");
        Some(2)
    }
}

fn fast(rules: &Rules, doc: &Doc) -> Doc {
    raw_document::edit(rules, doc, &mut Vec::new()).unwrap().unwrap_or_else(|| doc.clone())
}

fn with_id(mut doc: Document) -> Document {
    let mut out = doc! {"_id": 1};
    doc.remove("_id");
    out.extend(doc);
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn a_raw_edit_is_the_decoded_edit(seed in any::<u64>()) {
        let mut rng = Rng::new(seed);
        let case = case(&mut rng);
        let doc = with_id(document(&mut rng, 4));
        let slow = raw(&(case.slow)(doc.clone()));
        let before = raw(&doc);
        let edited = raw_document::edit(&case.rules, &before, &mut Vec::new()).unwrap();
        prop_assert_eq!(edited.is_some(), slow != before || edited.as_ref() == Some(&before), "{}", case.told);
        prop_assert!(edited.unwrap_or(before) == slow, "{} {doc}", case.told);
    }

    /// edit(apply(change, before)) == apply(edit(change), edit(before)), in all dialects.
    #[test]
    fn an_edited_change_leads_to_the_edited_document(seed in any::<u64>()) {
        let mut rng = Rng::new(seed);
        let case = case(&mut rng);
        let before = with_id(document(&mut rng, 4));
        let after = reference::mutated(&mut rng, &before, 4);
        let changes = [
            Change::OplogV2(raw(&reference::diff(&mut rng, &before, &after))),
            reference::dotted(&mut rng, &before, &after, false).modifiers(),
            reference::dotted(&mut rng, &before, &after, true).description(false),
            reference::dotted(&mut rng, &before, &after, true).description(true),
        ];
        let edited_before = decoded(&fast(&case.rules, &raw(&before)));
        let edited_after = decoded(&fast(&case.rules, &raw(&after)));
        for unedited in changes {
            prop_assert_eq!(raw(&sorted(&apply(&unedited, &before))), raw(&sorted(&after)), "the test's own diff");
            let edited = change::edit(&case.rules, &unedited, &mut Vec::new()).unwrap();
            // It may be what it was: a value that is written over by its like.
            let edited = edited.unwrap_or_else(|| unedited.clone());
            edited.decode().unwrap();
            let result = apply(&edited, &edited_before);
            prop_assert_eq!(
                raw(&sorted(&result)) == raw(&sorted(&edited_after)), true,
                "{}\nbefore {}\nafter {}\nchange {:?}\nedited {:?}\nresult {}\nwanted {}",
                case.told, before, after, shown(&unedited), shown(&edited), result, edited_after
            );
        }
    }

    /// Whatever is hidden is nowhere in the event.
    #[test]
    fn a_secret_is_nowhere_in_the_event(seed in any::<u64>()) {
        const SECRET: &str = "s3cr3t-m4rk";
        let mut rng = Rng::new(seed);
        let paths = paths(&mut rng);
        let plant = |doc: &Document| {
            paths.iter().fold(doc.clone(), |doc, path| {
                reference::edit_path(doc, path, &|value| Some(reference::leaves(value, &|_| Bson::from(SECRET))))
            })
        };
        let before = plant(&with_id(document(&mut rng, 4)));
        let after = plant(&reference::mutated(&mut rng, &before, 4));
        let changes = [
            Change::OplogV2(raw(&reference::diff(&mut rng, &before, &after))),
            reference::dotted(&mut rng, &before, &after, false).modifiers(),
            reference::dotted(&mut rng, &before, &after, true).description(true),
        ];
        let fields = paths.iter().map(|p| format!("{p:?}")).collect::<Vec<_>>().join(", ");
        for mode in ["remove", "mask", "hash", "truncate", "project"] {
            let mut transform = match mode {
                "project" => make("project", &format!("exclude = [{fields}]")),
                "hash" => make("redact", &format!("fields = [{fields}]\nmode = 'hash'\nkey = '0123456789abcdef'")),
                "truncate" => {
                    let fields =
                        paths.iter().map(|p| format!("{{ field = {p:?}, mode = 'truncate', length = 4 }}")).collect::<Vec<_>>();
                    make("redact", &format!("fields = [{}]", fields.join(", ")))
                }
                mode => make("redact", &format!("fields = [{fields}]\nmode = {mode:?}")),
            }.unwrap();
            for change in &changes {
                let shard = before.iter().find(|(name, _)| *name != "_id").map(|(n, v)| (n.clone(), v.clone()));
                let mut event = Event { before: Some(raw(&before)), after: Some(raw(&after)), ..update(change.clone()) };
                event.key = Some(raw(&[("_id".to_owned(), Bson::from(1))].into_iter().chain(shard).collect()));
                event.raw = raw(&doc! {"before": before.clone(), "after": after.clone()});
                let Some(out) = one(&mut *transform, event) else { continue };
                prop_assert!(out.op == Op::Update && out.key.is_some());
                let bytes = out.to_document();
                let is_there = bytes.as_bytes().windows(SECRET.len()).any(|w| w == SECRET.as_bytes());
                prop_assert!(!is_there, "{mode} {paths:?} {:?}", Document::try_from(&*bytes));
            }
        }
    }

    /// Damaged documents and changes end in an error or an edit, never in a panic.
    #[test]
    fn damage_is_no_panic(seed in any::<u64>(), at in 4usize..200, byte in any::<u8>()) {
        let mut rng = Rng::new(seed);
        let case = case(&mut rng);
        let (before, after) = (with_id(document(&mut rng, 4)), with_id(document(&mut rng, 4)));
        let break_it = |doc: &Doc| {
            let mut bytes = doc.bytes().to_vec();
            let end = bytes.len() - 1;
            if end > 4 {
                bytes[4 + at % (end - 4)] = byte;
            }
            Doc::new(bytes.into()).unwrap()
        };
        let mut scratch = Vec::new();
        let _ = raw_document::edit(&case.rules, &break_it(&raw(&before)), &mut scratch);
        for change in [
            Change::OplogV2(break_it(&raw(&reference::diff(&mut rng, &before, &after)))),
            match reference::dotted(&mut rng, &before, &after, false).modifiers() {
                Change::OplogV1(doc) => Change::OplogV1(break_it(&doc)),
                other => other,
            },
            match reference::dotted(&mut rng, &before, &after, true).description(true) {
                Change::ChangeStream(doc) => Change::ChangeStream(break_it(&doc)),
                other => other,
            },
        ] {
            let _ = change::edit(&case.rules, &change, &mut scratch);
        }
    }
}

fn shown(change: &Change) -> Document {
    match change {
        Change::ChangeStream(doc) | Change::OplogV1(doc) | Change::OplogV2(doc) => decoded(doc),
    }
}
