//! The transforms `dedupe` and `sample`: which document events go on, by what they change and by their key.

use oplogue_api::{
    Batch, Change, Error, Event, Field, FieldType, Footprint, Op, Registry, Result, Selection, Transform, oplog,
    raw::elements,
};
use serde::Deserialize;

use super::{
    change,
    digest::canonical_id,
    event,
    scope::{NAMESPACES, Scope},
};

pub(super) fn register(r: &mut Registry) {
    r.transform("dedupe", "Leaves out updates and replacements that change nothing", &[NAMESPACES], |_, options| {
        let options: DedupeOptions = options.parse()?;
        Ok(Box::new(Dedupe(Scope::new(options.namespaces.as_deref())?)))
    });
    r.transform("sample", "Lets through a part of all documents, always the same ones", SAMPLE, |_, options| {
        Ok(Box::new(Sample::new(options.parse()?)?))
    });
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DedupeOptions {
    namespaces: Option<Vec<String>>,
}

struct Dedupe(Scope);

/// Whether an event says that nothing has changed.
fn changes_nothing(event: &Event) -> bool {
    if !matches!(event.op, Op::Update | Op::Replace) {
        return false;
    }
    if event.change.as_ref().is_some_and(change::says_nothing) {
        return true;
    }
    match (&event.before, &event.after, &event.change) {
        (Some(before), Some(after), _) => before == after,
        (Some(before), None, Some(Change::OplogV2(diff))) => {
            oplog::apply(diff, before).is_ok_and(|after| after.as_bytes() == before.as_bytes())
        }
        _ => false,
    }
}

impl Transform for Dedupe {
    fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        event::each(batch, false, |event| Ok(!(changes_nothing(event) && self.0.has(&event.ns))));
        Ok(())
    }
}

const SAMPLE: &[Field] = &[
    Field::new("rate", FieldType::Any, "Which part of the documents goes on: above 0, at most 1")
        .required()
        .example("0.1"),
    NAMESPACES,
];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct SampleOptions {
    rate: toml::Value,
    namespaces: Option<Vec<String>>,
}

struct Sample {
    /// Hashes up to here go on.
    most: u64,
    scope: Scope,
}

impl Sample {
    fn new(options: SampleOptions) -> Result<Sample> {
        let rate = match options.rate {
            toml::Value::Float(rate) => rate,
            toml::Value::Integer(n) => n as f64,
            _ => f64::NAN,
        };
        if !(rate > 0.0 && rate <= 1.0) {
            return Err(Error::option("rate", "the rate is no number above 0 and up to 1")
                .hint("write 0.1 for a tenth of the documents"));
        }
        Ok(Sample { most: (rate * u64::MAX as f64) as u64, scope: Scope::new(options.namespaces.as_deref())? })
    }
}

/// A number for a document that is the same in every process, whatever source its events come from.
fn hash(event: &Event) -> u64 {
    // FNV-1a, and the end of SplitMix64, which spreads it over all bits.
    let mut h = 0xcbf2_9ce4_8422_2325_u64;
    let mut update = |bytes: &[u8]| {
        for byte in bytes {
            h = (h ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    };
    update(event.ns.as_str().as_bytes());
    update(&[0]);
    for element in event.key.iter().flat_map(|key| elements(key)).flatten() {
        if element.name == b"_id" {
            canonical_id(element.value, &mut update);
        }
    }
    h = (h ^ (h >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    h = (h ^ (h >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    h ^ (h >> 31)
}

impl Transform for Sample {
    fn selection(&self) -> Option<Selection> {
        Some(Selection { here: vec!["rate"], ..Selection::default() })
    }

    fn footprint(&self) -> Footprint {
        Footprint { namespaces: self.scope.patterns(), ..Footprint::default() }
    }

    fn apply(&mut self, batch: &mut Batch) -> Result<()> {
        event::each(batch, false, |event| {
            Ok(event.op.is_barrier() || !self.scope.has(&event.ns) || hash(event) <= self.most)
        });
        Ok(())
    }
}
