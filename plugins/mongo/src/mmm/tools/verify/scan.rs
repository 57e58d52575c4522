//! Compares a collection, one range of `_id`s after the other.
//!
//! The documents are read raw and hashed here. `$toHashedIndexKey`, with which a server could do it, takes 1 and 1.0 for the same,
//! and a difference of types is one.

use std::{
    collections::HashMap,
    future::IntoFuture,
    hash::{DefaultHasher, Hasher},
};

use bson::{Bson, RawDocument, RawDocumentBuf, doc};
use mongodb::Client;
use oplogue_api::{Error, Namespace, Result, hash_key};

use super::{
    super::super::stamp,
    super::links::{collection, current},
    ends::Ends,
};
use crate::{
    client::{answered, bounded},
    errors::{Phase, classify},
};

/// Documents of a range.
const RANGE: u64 = 5_000;
/// So many bytes are read between two looks at the rate.
const PORTION: u64 = 256 * 1024;

/// The whole of a document.
pub(super) type Digest = u128;

/// A document that was not the same at both ends when it was read.
pub(super) struct Candidate {
    pub ns: Namespace,
    pub id: Bson,
    /// What it was when it was looked at last.
    pub state: [Option<Digest>; 2],
}

/// What a range came to.
#[derive(Default)]
pub(super) struct Compared {
    pub documents: [u64; 2],
    pub candidates: Vec<Candidate>,
}

/// The ids of a range: from one, up to and without the other.
pub(super) type Range = (Option<Bson>, Option<Bson>);

/// The range behind an id, at one end.
pub(super) async fn next_range(client: &Client, ns: &Namespace, from: Option<Bson>) -> Result<Range> {
    let coll = collection::<bson::Document>(client, ns);
    let mut find = coll.find_one(doc! {}).projection(doc! {"_id": 1}).sort(doc! {"_id": 1}).hint(by_id()).skip(RANGE);
    if let Some(from) = &from {
        find = find.min(doc! {"_id": from});
    }
    let found = bounded(find.into_future(), Phase::Lookup).await?;
    Ok((from, found.and_then(|mut found| found.remove("_id"))))
}

/// Not a filter: comparisons hold within a type only, and ids of several types may be in one collection.
fn by_id() -> mongodb::options::Hint {
    mongodb::options::Hint::Keys(doc! {"_id": 1})
}

/// Compares a range.
pub(super) async fn compare(ends: Ends, ns: Namespace, range: Range) -> Result<Compared> {
    let (here, there) =
        futures_util::future::try_join(read(&ends, 0, &ns, &range), read(&ends, 1, &ns, &range)).await?;
    let documents = [here.len() as u64, there.len() as u64];
    let mut open: HashMap<u64, (Bson, [Option<Digest>; 2])> = HashMap::new();
    for (key, id, digest) in here {
        open.insert(key, (id, [Some(digest), None]));
    }
    for (key, id, digest) in there {
        open.entry(key).or_insert((id, [None, None])).1[1] = Some(digest);
    }
    open.retain(|_, (_, state)| state[0] != state[1]);
    let candidates = open.into_values().map(|(id, state)| Candidate { ns: ns.clone(), id, state }).collect();
    Ok(Compared { documents, candidates })
}

type Read = Vec<(u64, Bson, Digest)>;

async fn read(ends: &Ends, end: usize, ns: &Namespace, (from, upto): &Range) -> Result<Read> {
    let coll = collection::<RawDocumentBuf>(&ends.clients[end], ns);
    let mut find = coll.find(doc! {}).sort(doc! {"_id": 1}).hint(by_id());
    if let Some(from) = from {
        find = find.min(doc! {"_id": from});
    }
    if let Some(upto) = upto {
        find = find.max(doc! {"_id": upto});
    }
    let mut cursor = bounded(find.into_future(), Phase::Lookup).await?;
    let mut all = Vec::new();
    let mut bytes = 0;
    // Without an upper bound the server leaves out the greatest id that there can be.
    if from.is_some()
        && upto.is_none()
        && let Some(last) = current(&ends.clients[end], ns, &Bson::MaxKey).await?
    {
        all.push((hash_key(&last), Bson::MaxKey, digest(&last, ends.stamped)));
    }
    while answered(cursor.advance()).await?.map_err(|e| classify(e, Phase::Lookup))? {
        let document = cursor.current();
        all.push((hash_key(document), id_of(document)?, digest(document, ends.stamped)));
        bytes += document.as_bytes().len() as u64;
        if bytes >= PORTION {
            ends.rate.take(std::mem::take(&mut bytes)).await;
        }
    }
    ends.rate.take(bytes).await;
    Ok(all)
}

/// What some documents are now, at both ends.
pub(super) async fn states(ends: &Ends, ns: &Namespace, ids: &[Bson]) -> Result<Vec<[Option<Digest>; 2]>> {
    let keys: Vec<u64> = ids.iter().map(key_of).collect::<Result<_>>()?;
    let mut states = vec![[None, None]; ids.len()];
    for end in 0..2 {
        let coll = collection::<RawDocumentBuf>(&ends.clients[end], ns);
        let mut cursor = bounded(coll.find(doc! {"_id": {"$in": ids}}).into_future(), Phase::Lookup).await?;
        let mut found = HashMap::new();
        while answered(cursor.advance()).await?.map_err(|e| classify(e, Phase::Lookup))? {
            let document = cursor.current();
            found.insert(hash_key(document), digest(document, ends.stamped));
        }
        for (state, key) in states.iter_mut().zip(&keys) {
            state[end] = found.get(key).copied();
        }
    }
    Ok(states)
}

fn key_of(id: &Bson) -> Result<u64> {
    let key = RawDocumentBuf::try_from(&doc! {"_id": id}).map_err(|_| Error::bug("an id that cannot be encoded"))?;
    Ok(hash_key(&key))
}

fn id_of(document: &RawDocument) -> Result<Bson> {
    let id = document.get("_id").ok().flatten().and_then(|id| Bson::try_from(id).ok());
    id.ok_or_else(|| Error::data("a document has an `_id` that cannot be read"))
}

/// All bytes count: types, and the order of fields.
pub(super) fn digest(document: &RawDocument, stamped: bool) -> Digest {
    let bare = if stamped { without_stamp(document) } else { None };
    let bytes = bare.as_deref().unwrap_or(document).as_bytes();
    let half = |seed: u8| {
        let mut hasher = DefaultHasher::new();
        hasher.write_u8(seed);
        hasher.write(bytes);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}

/// The document without the field `__mmm`; `None` where there is none.
fn without_stamp(document: &RawDocument) -> Option<RawDocumentBuf> {
    document.get(stamp::FIELD).ok()??;
    let mut bare = RawDocumentBuf::new();
    for element in document.iter_elements() {
        let element = element.ok()?;
        if element.key() != stamp::FIELD {
            bare.append(element.key(), element.value().ok()?);
        }
    }
    Some(bare)
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::rawdoc;

    #[test]
    fn every_byte_counts_but_the_stamp_where_there_is_one() {
        let document = rawdoc! {"_id": 1, "a": 1, "b": 2};
        for other in [
            rawdoc! {"_id": 1, "b": 2, "a": 1},
            rawdoc! {"_id": 1, "a": 1.0, "b": 2},
            rawdoc! {"_id": 1i64, "a": 1, "b": 2},
            rawdoc! {"_id": 1, "a": 1},
        ] {
            assert_ne!(digest(&document, false), digest(&other, false));
            assert_ne!(digest(&document, true), digest(&other, true));
        }
        let stamped = rawdoc! {"_id": 1, "a": 1, "__mmm": {"o": "x"}, "b": 2};
        assert_eq!(digest(&document, true), digest(&stamped, true));
        assert_ne!(digest(&document, false), digest(&stamped, false));
        let deep = rawdoc! {"_id": 1, "a": {"__mmm": 1}};
        assert_eq!(digest(&deep, true), digest(&deep, false));
    }
}
