//! Unique values that both sites have given away: which of the two documents stays.
//!
//! What comes is refused, since another document of the peer has its value. If that one was written there without the writer of the
//! change knowing of it, and the other way round, the ranks of the two writes decide, as for two writes of one document; the
//! document that loses goes, at both ends. Each end decides by what it knows, which may differ while more is on its
//! way: so both documents are told to the link that settles them afterwards ([`super::settle`]).

use std::future::IntoFuture;

use bson::{Bson, Document, RawDocument, RawDocumentBuf, doc};
use mongodb::Client;
use oplogue_api::{Event, Namespace, Result, hash_key, same_key};

use super::{
    apply::{Retry, Tactics, Writes},
    marker::Marker,
    options::Conflicts,
    origin::raw,
    records::{self, By},
    sight::Sight,
    state::{Peer, State},
    statements::filter,
    subjects::Subjects,
    txn::{Failure, Transaction},
    unsettled::Unsettled,
    verdict::{Conflict, Verdict, over_value},
    window::Window,
};
use crate::{
    client::answered,
    errors::{Phase, classify, code},
};

/// How many unique values one document is asked about; a collection has at most 64 indexes.
const MOST_ASKS: usize = 64;

/// A unique value for which a document was refused.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Ask {
    index: Document,
    values: Document,
}

/// What becomes of a document that was refused.
enum Stand {
    Won(Conflict),
    Lost(Conflict),
    /// The other one is none that its writer could not know of: it is left out until all else is here.
    Waits,
    /// Somebody has to decide.
    Parked,
}

impl Peer {
    /// Takes note of the value for which an event was refused. Not where nothing can be decided by it, and not before the order of
    /// documents was tried.
    pub(super) async fn is_asked(
        &self,
        state: &State,
        event: &Event,
        refusal: Option<&Document>,
        document: Option<&RawDocument>,
        tactics: &mut Tactics,
    ) -> Result<bool> {
        let (Some(key), Some(refusal), Some(document)) = (&event.key, refusal, document) else { return Ok(false) };
        let is_tried = state.serial.contains(&event.ns) && tactics.read.contains(&(event.ns.clone(), hash_key(key)));
        if !is_tried || state.window.is_none() || self.settings.policy(&event.ns).conflicts == Conflicts::Origin {
            return Ok(false);
        }
        let Some(ask) = ask(self.client().await?, &event.ns, refusal, document).await? else { return Ok(false) };
        let asks = tactics.asks.entry(event.id()).or_default();
        if asks.contains(&ask) || asks.len() >= MOST_ASKS {
            // It is refused all the same: what holds the value is not what was found.
            return Ok(false);
        }
        asks.push(ask);
        Ok(true)
    }

    /// Decides about the events that were refused. The documents are as the events leave them, and not yet written.
    #[allow(clippy::too_many_arguments)]
    pub(super) async fn contests(
        &self,
        transaction: &mut Transaction<'_>,
        state: &State,
        events: &[Event],
        (sight, marker): (&Sight, &Marker),
        tactics: &mut Tactics,
        subjects: &mut Subjects,
        writes: &mut Writes,
    ) -> Result<(), Retry> {
        let mut met = Unsettled::default();
        for (n, event) in events.iter().enumerate() {
            let (Some(asks), Some(key)) = (tactics.asks.get(&event.id()), event.key.as_deref()) else { continue };
            let Some(at) = subjects.place(&event.ns, key) else { continue };
            let subject = subjects.get(at);
            let (Some(document), true) = (subject.now.clone(), subject.is_changed()) else { continue };
            let (mut beaten, mut lost) = (Vec::new(), None);
            for ask in asks {
                let Some(holder) = holder(transaction, &event.ns, ask).await? else { continue };
                if same_key(&holder, key) {
                    continue;
                }
                let name = filter(&holder)?;
                if let Some(other) = subjects.place(&event.ns, &name) {
                    let other = subjects.get(other);
                    if other.is_changed() {
                        // It is another document by the end of the transaction.
                        other.makes_room = true;
                        continue;
                    }
                }
                match self.stand(state, event, (sight, n), &name, ask).await? {
                    Stand::Won(conflict) => beaten.push((conflict, holder)),
                    Stand::Lost(conflict) => lost = Some((Some(conflict), holder)),
                    Stand::Waits => {
                        lost.get_or_insert((None, holder));
                    }
                    Stand::Parked => {
                        tactics.asks.remove(&event.id());
                        tactics.refused.insert(n, 11000);
                        return Err(Retry::Otherwise);
                    }
                }
            }
            let by = By::new(&self.settings.link, sight, n, &self.settings);
            let (clock, _) = sight.of(n);
            if lost.is_some() || !beaten.is_empty() {
                met.enter(&event.ns, key);
            }
            if let Some((conflict, holder)) = lost {
                met.enter(&event.ns, &holder);
                let subject = subjects.get(at);
                subject.now = if conflict.is_some() { None } else { subject.before.clone() };
                let versions = (&*holder, Some(&*document));
                writes.records.push(records::unique(by, event, clock, (conflict.as_ref(), false), versions)?);
                continue;
            }
            for (conflict, holder) in beaten {
                met.enter(&event.ns, &holder);
                let versions = (&*holder, Some(&*document));
                writes.records.push(records::unique(by, event, clock, (Some(&conflict), true), versions)?);
                let place = subjects.enter(&event.ns, &filter(&holder)?);
                subjects.found(&event.ns, holder);
                let loser = subjects.get(place);
                (loser.now, loser.event, loser.makes_room) = (None, n, true);
            }
        }
        let mut told = marker.unsettled.clone();
        told.merge(&met);
        let decides = marker.forward.as_ref().is_none_or(|forward| forward.decides || met.is_empty());
        if told != marker.unsettled || !decides {
            // The marker is written already, without them, or without saying that something is decided here.
            tactics.met.merge(&met);
            return Err(Retry::Otherwise);
        }
        Ok(())
    }

    async fn stand(
        &self,
        state: &State,
        event: &Event,
        sight: (&Sight, usize),
        holder: &RawDocument,
        ask: &Ask,
    ) -> Result<Stand, Failure> {
        let hash = Window::hash(&event.ns, holder);
        match over_value(&self.settings, state, event, hash, sight)? {
            Some(Verdict::Local(conflict)) => return Ok(Stand::Lost(conflict)),
            Some(Verdict::Remote(conflict)) => return Ok(Stand::Won(conflict)),
            _ => {}
        }
        // Where the origin has the index too, its documents have different values: it is the ends that differ, for a while.
        let at_origin = indexes(self.origin.client().await?, &event.ns).await?;
        Ok(if at_origin.iter().any(|index| is_same(index, &ask.index)) { Stand::Waits } else { Stand::Parked })
    }
}

/// Reads what a refusal says. `None`: not enough to find the other document by it.
pub(super) async fn ask(
    client: &Client,
    ns: &Namespace,
    refusal: &Document,
    document: &RawDocument,
) -> Result<Option<Ask>> {
    let (Ok(pattern), Ok(values)) = (refusal.get_document("keyPattern"), refusal.get_document("keyValue")) else {
        return Ok(None);
    };
    let message = refusal.get_str("errmsg").unwrap_or_default();
    let named = |index: &Document| {
        let name = index.get_str("name").unwrap_or_default();
        message.contains(&format!(" index: {name} dup key")) || message.contains(&format!(" index: {name} collation"))
    };
    let mut all = indexes(client, ns).await?;
    all.retain(|index| index.get_document("key").is_ok_and(|key| key == pattern));
    let index = match all.iter().position(named) {
        Some(at) => all.swap_remove(at),
        None if all.len() == 1 => all.remove(0),
        None => return Ok(None),
    };
    // With a collation the values of the error are sort keys.
    let values = match index.contains_key("collation") {
        false => Some(values.clone()),
        true => pattern.keys().map(|path| Some((path.clone(), value(document, path)?))).collect(),
    };
    Ok(values.map(|values| Ask { index, values }))
}

/// The value of a path, where no array is in the way.
fn value(document: &RawDocument, path: &str) -> Option<Bson> {
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    match (document.get(first).ok()?, rest) {
        (None, _) => Some(Bson::Null),
        (Some(bson::RawBsonRef::Array(_)), _) => None,
        (Some(found), None) => Bson::try_from(found).ok(),
        (Some(bson::RawBsonRef::Document(inner)), Some(rest)) => value(inner, rest),
        (Some(_), Some(_)) => Some(Bson::Null),
    }
}

/// The document that has the values, in the snapshot of the transaction.
pub(super) async fn holder(
    transaction: &mut Transaction<'_>,
    ns: &Namespace,
    ask: &Ask,
) -> Result<Option<RawDocumentBuf>, Failure> {
    let collation = ask.index.get_document("collation").ok();
    // The index itself is looked into, so that it does not matter which documents it holds (sparse, partial, elements of arrays).
    let mut first = doc! {
        "find": ns.coll(), "hint": ask.index.get_str("name").unwrap_or_default(), "min": ask.values.clone(),
        "projection": {"_id": 1}, "limit": 1, "singleBatch": true,
    };
    if let Some(collation) = collation {
        first.insert("collation", collation.clone());
    }
    let found = transaction.run(ns.db(), raw(&first)?).await?;
    let batch = found.0.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    let Some(id) = batch.ok().and_then(|batch| batch.first()?.as_document()?.get("_id").cloned()) else {
        return Ok(None);
    };
    // It may be the next one, if that with the values is gone.
    let mut exact = doc! {"_id": {"$eq": &id}};
    for (path, value) in &ask.values {
        exact.insert(path, doc! {"$eq": value.clone()});
    }
    let mut check =
        doc! {"find": ns.coll(), "filter": exact, "projection": {"_id": 1}, "limit": 1, "singleBatch": true};
    if let Some(collation) = collation {
        check.insert("collation", collation.clone());
    }
    let found = transaction.run(ns.db(), raw(&check)?).await?;
    let batch = found.0.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    if batch.map_or(true, |batch| batch.is_empty()) {
        return Ok(None);
    }
    let mut documents = transaction.documents(ns.db(), ns.coll(), doc! {"_id": {"$eq": id}}).await?;
    Ok(documents.pop())
}

/// The unique indexes of a collection.
async fn indexes(client: &Client, ns: &Namespace) -> Result<Vec<Document>> {
    let list = doc! {"listIndexes": ns.coll(), "cursor": {"batchSize": 100}};
    let listed = match answered(client.database(ns.db()).run_command(list).into_future()).await? {
        Ok(listed) => listed,
        Err(e) if code(&e) == Some(26) => return Ok(Vec::new()),
        Err(e) => return Err(classify(e, Phase::Lookup)),
    };
    let batch = listed.get_document("cursor").and_then(|cursor| cursor.get_array("firstBatch"));
    let all = batch.into_iter().flatten().filter_map(Bson::as_document);
    Ok(all.filter(|index| index.get_bool("unique").unwrap_or(false)).cloned().collect())
}

fn is_same(one: &Document, other: &Document) -> bool {
    ["key", "sparse", "partialFilterExpression", "collation"].iter().all(|field| {
        match (one.get(*field), other.get(*field)) {
            // The version of its rules differs between releases of the server.
            (Some(Bson::Document(a)), Some(Bson::Document(b))) if *field == "collation" => {
                let but_version = |collation: &Document| -> Document {
                    collation
                        .iter()
                        .filter(|(name, _)| *name != "version")
                        .map(|(k, v)| (k.clone(), v.clone()))
                        .collect()
                };
                but_version(a) == but_version(b)
            }
            (a, b) => a == b,
        }
    })
}
