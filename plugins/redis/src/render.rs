//! From an event to the message that redis-oplog understands, and the channels it goes to.
//!
//! The bytes are those of oplogtoredis wherever that publishes anything, so that one can take the place of the other; ids it
//! drops or misdirects (numbers, booleans, null, texts that need an escape) go where Meteor's `MongoID.idStringify`
//! listens for them.

use std::{collections::HashMap, io::Write as _};

use oplogue_api::{Doc, Error, Event, EventId, Op, Result};

use crate::{
    changed::Detail,
    collections::{Document, Rule, Rules},
    ejson,
    fields::FieldList,
    id::{write_id, write_suffix},
    keyed::entry_number,
    notices::{Missing, Notices},
    pack::Pack,
    raw::{Element, find},
    template::Channels,
};

/// What became of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rendered {
    /// A message was added.
    Message,
    /// The position was lost before this event: what is marked as sent beyond it must not be believed any more.
    Gap {
        /// An entry of the pack says so.
        is_packed: bool,
    },
    /// A barrier: the protocol has no message for it.
    Barrier,
    /// Meteor has no channel and no text for an id of this type, so no subscriber can exist.
    NoChannel,
    /// The settings of its collection leave it out.
    LeftOut,
}

/// What the options say about messages and channels.
#[derive(Default)]
pub struct Rendering {
    /// What channels begin with; `None`: the name of the event's database and a dot.
    pub prefix: Option<Vec<u8>>,
    /// The same for some databases.
    pub prefixes: HashMap<String, Vec<u8>>,
    /// How exactly `f` tells what an update changed.
    pub detail: Detail,
    /// The tables of `collections`.
    pub rules: Rules,
}

/// What a pack calls its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ids {
    /// By [`event_id`].
    Position,
    /// `<entry>::<index>`, as oplogtoredis does.
    Entry,
}

/// Renders events into a [`Pack`], four fields each: id, collection channel (empty: that of the event before), channel of
/// the document (or an array of it and further channels), message. A gap has an id and three empty fields.
pub struct Renderer {
    ids: Ids,
    prefix: Option<Vec<u8>>,
    prefixes: HashMap<String, Vec<u8>>,
    rules: Rules,
    fields: FieldList,
    /// The collection channel of the last message, valid within one pack.
    channel: Vec<u8>,
    /// The further channels of an event.
    further: Channels,
    notices: Notices,
}

/// How many fields of the pack an event takes.
pub const FIELDS_PER_EVENT: usize = 4;

impl Renderer {
    /// As the options say.
    pub fn new(ids: Ids, Rendering { prefix, prefixes, detail, rules }: Rendering) -> Renderer {
        let fields = FieldList::new(detail);
        let (channel, further, notices) = Default::default();
        Renderer { ids, prefix, prefixes, rules, fields, channel, further, notices }
    }

    /// To be called before the first event of a pack.
    pub fn begin(&mut self) {
        self.channel.clear();
    }

    /// Adds one message to the pack: of `event`, and of `earlier` events of the same document if there are any.
    ///
    /// # Errors
    /// `Data` when an event has no id, does not say what it changed, or holds a document that cannot be sent as it is asked for; the
    /// pack is as before then.
    pub fn render(&mut self, pack: &mut Pack, earlier: &[&Event], event: &Event) -> Result<Rendered> {
        if event.op == Op::Gap {
            // Claims of single events say nothing about later ones.
            if self.ids == Ids::Position {
                pack.push(&event_id(event)[..TIME_DIGITS]);
                for _ in 1..FIELDS_PER_EVENT {
                    pack.push(b"");
                }
            }
            return Ok(Rendered::Gap { is_packed: self.ids == Ids::Position });
        }
        if event.op.is_barrier() {
            return Ok(Rendered::Barrier);
        }
        let key = event.key.as_ref().ok_or_else(|| Error::data("the event has no document key"))?;
        let id = find(key.as_bytes(), "_id")?.ok_or_else(|| Error::data("the document key has no _id"))?;
        let mark = pack.mark();
        let rendered = self.message(pack, earlier, event, &id);
        if !matches!(rendered, Ok(Rendered::Message)) {
            pack.rewind(mark);
            // The channel of the pack's last event is not known any more.
            self.channel.clear();
        }
        rendered
    }

    /// Whether the settings of its collection leave an event out.
    ///
    /// # Errors
    /// `Data` when its description is damaged.
    pub fn leaves_out(&mut self, event: &Event) -> Result<bool> {
        let Some(rule) = self.rules.of(&event.ns) else { return Ok(false) };
        if !rule.publish || (event.op == Op::Update && rule.skips(event)?) {
            return Ok(true);
        }
        // Without the document there is nothing to send, not even the id: a subscriber would take it for the document. If it is
        // gone meanwhile, a deletion follows.
        let no_document = rule.document == Document::Full && event.op == Op::Update && event.after.is_none();
        if no_document {
            self.notices.once(&event.ns, Missing::Document);
        }
        Ok(no_document)
    }

    /// The four fields, without taking anything back when it fails.
    fn message(&mut self, pack: &mut Pack, earlier: &[&Event], event: &Event, id: &Element<'_>) -> Result<Rendered> {
        if self.leaves_out(event)? {
            return Ok(Rendered::LeftOut);
        }
        let Renderer { ids, prefix, prefixes, rules, fields, channel, further, notices } = self;
        let rule = rules.of(&event.ns);
        match ids {
            Ids::Position => pack.push(&event_id(event)),
            Ids::Entry => pack.push_with(|out| {
                let EventId { time, index } = event.entry_id();
                // Writing to a Vec does not fail.
                let _ = write!(out, "{}::{index}", entry_number(time));
            }),
        }
        let ns = &event.ns;
        let database_prefix = if prefixes.is_empty() { None } else { prefixes.get(ns.db()) };
        let (front, back): (&[u8], &[u8]) = match database_prefix.or(prefix.as_ref()) {
            None => (ns.as_str().as_bytes(), b""),
            Some(prefix) => (prefix, ns.coll().as_bytes()),
        };
        let same = channel.len() == front.len() + back.len() && channel.starts_with(front) && channel.ends_with(back);
        if same && !channel.is_empty() {
            pack.push(b"");
        } else {
            channel.clear();
            channel.extend_from_slice(front);
            channel.extend_from_slice(back);
            pack.push(channel);
        }
        let own_channel = |out: &mut Vec<u8>| {
            out.extend_from_slice(channel);
            out.extend_from_slice(b"::");
            write_suffix(out, id)
        };
        let has_channel = match rule.filter(|rule| rule.has_templates()) {
            None => pack.push_with(own_channel),
            Some(rule) => {
                let mut own = Vec::new();
                let has_channel = own_channel(&mut own);
                further.clear();
                further.leave_out(channel);
                further.leave_out(&own);
                let front = &channel[..channel.len() - ns.coll().len()];
                templates(further, notices, rule, front, earlier, event)?;
                if further.list().is_empty() {
                    pack.push(&own);
                } else {
                    pack.push_list(|list| {
                        list.push(&own);
                        further.list().iter().for_each(|channel| list.push(channel));
                    });
                }
                has_channel
            }
        };
        if !has_channel {
            notices.once(&event.ns, Missing::Channel);
            return Ok(Rendered::NoChannel);
        }
        let whole = rule.and_then(|rule| document(rule, earlier, event));
        pack.push_with(|out| {
            out.extend_from_slice(match event.op {
                // A subscriber that has the document already passes over an insert, and so over what was changed since.
                Op::Insert if earlier.is_empty() => b"{\"e\":\"i\",\"d\":",
                Op::Delete => b"{\"e\":\"r\",\"d\":",
                _ => b"{\"e\":\"u\",\"d\":",
            });
            match whole {
                None => {
                    out.extend_from_slice(b"{\"_id\":");
                    write_id(out, id);
                    out.push(b'}');
                }
                Some(document) => ejson::write_document(out, document.as_bytes())?,
            }
            out.extend_from_slice(b",\"f\":");
            fields.write(out, earlier, event)?;
            out.push(b'}');
            Ok(Rendered::Message)
        })
    }
}

/// The document that a message holds, if it is not just the id.
fn document<'a>(rule: &Rule, earlier: &[&'a Event], event: &'a Event) -> Option<&'a Doc> {
    match rule.document {
        Document::Id => None,
        Document::Full if event.op == Op::Delete => None,
        Document::Full => event.after.as_ref(),
        Document::Previous => {
            let first = earlier.first().copied().unwrap_or(event);
            first.before.as_ref().filter(|_| first.op != Op::Insert)
        }
    }
}

/// The channels that the templates of a collection make of the documents before and after each event: who listens where a
/// document was must hear that it has gone.
fn templates(
    further: &mut Channels,
    notices: &mut Notices,
    rule: &Rule,
    prefix: &[u8],
    earlier: &[&Event],
    event: &Event,
) -> Result<()> {
    let events = || earlier.iter().copied().chain([event]);
    let ns = &event.ns;
    for event in events().filter(|event| rule.needs_images() && event.op != Op::Insert) {
        let moves = event.op != Op::Update || rule.may_move(event)?;
        // What did not change is the same in both.
        if event.op == Op::Update && event.after.is_none() && (moves || event.before.is_none()) {
            notices.once(ns, Missing::Image);
        }
        if event.before.is_none() && moves {
            notices.once(ns, Missing::PreImage);
        }
    }
    let after_namespace: [&[u8]; 2] = [b"::", ns.coll().as_bytes()];
    let all = rule.namespaces.iter().map(|template| (template, &after_namespace[..]));
    for (template, back) in all.chain(rule.channels.iter().map(|template| (template, &[][..]))) {
        if template.is_constant() {
            template.channels(&[], rule.object_ids, (prefix, back), further)?;
            continue;
        }
        for image in events().flat_map(|event| event.before.iter().chain(&event.after)) {
            if !template.channels(image.as_bytes(), rule.object_ids, (prefix, back), further)? {
                notices.once(ns, Missing::Text);
            }
        }
    }
    Ok(())
}

/// Digits of an event id, and of the time in it.
pub const ID_DIGITS: usize = 30;
/// See [`ID_DIGITS`].
pub const TIME_DIGITS: usize = 20;

/// The canonical position of an event (seconds, increment, index) as digits of fixed width, so that the order of texts is
/// the order of positions. Digits alone sort alike in every locale, which Lua's comparison depends on.
pub fn event_id(event: &Event) -> [u8; ID_DIGITS] {
    let mut out = [b'0'; ID_DIGITS];
    digits(&mut out[..10], event.time.time);
    digits(&mut out[10..20], event.time.increment);
    digits(&mut out[20..], event.index);
    out
}

/// Cluster time as digits: how [`event_id`] begins.
pub fn time_digits(time: bson::Timestamp) -> [u8; TIME_DIGITS] {
    let mut out = [b'0'; TIME_DIGITS];
    digits(&mut out[..10], time.time);
    digits(&mut out[10..], time.increment);
    out
}

/// The cluster time that [`time_digits`] wrote.
pub fn parse_time(text: &[u8]) -> Option<bson::Timestamp> {
    let text = std::str::from_utf8(text).ok().filter(|t| t.len() == TIME_DIGITS)?;
    Some(bson::Timestamp { time: text[..10].parse().ok()?, increment: text[10..].parse().ok()? })
}

fn digits(out: &mut [u8], mut n: u32) {
    for place in out.iter_mut().rev() {
        *place = b'0' + (n % 10) as u8;
        n /= 10;
    }
}

#[cfg(test)]
#[path = "render_tests.rs"]
mod tests;
