//! The `aggregate` command that opens a stream, and what the server at hand knows of it.

use bson::{Document, RawArrayBuf, RawDocumentBuf, Timestamp, raw::cstr, rawdoc};

use super::options::{BeforeChange, FullDocument, Settings, UpdateDescription};

/// What a server may know. Found out by asking for it and looking at the error code, not by its version.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Features {
    /// `showExpandedEvents`: create, createIndexes, dropIndexes, modify, … (6.0).
    pub expanded: bool,
    /// `showRawUpdateDescription`: the exact diff of the oplog (6.0, undocumented).
    pub raw_updates: bool,
    /// `showSystemEvents` (6.0); asked for with `include_system` only.
    pub system: bool,
    /// `$changeStreamSplitLargeEvent` (6.0.9).
    pub split: bool,
}

impl Features {
    /// All that would be of use.
    pub fn wanted(settings: &Settings) -> Features {
        Features {
            expanded: true,
            raw_updates: settings.update_description != UpdateDescription::Classic,
            system: settings.include_system,
            split: true,
        }
    }

    /// What to ask for after `code` was the answer, or `None` when the fault lies elsewhere. All three fields are an unknown
    /// field (40415) where they are not known, so they are given up one by one.
    pub fn without(mut self, code: Option<i32>) -> Option<Features> {
        let given_up = match code? {
            40324 if self.split => &mut self.split,
            40415 if self.raw_updates => &mut self.raw_updates,
            40415 if self.system => &mut self.system,
            40415 if self.expanded => &mut self.expanded,
            _ => return None,
        };
        *given_up = false;
        Some(self)
    }

    /// What decides which events the server shows. A token of an event is good only where the event is shown.
    pub fn pipeline(self) -> String {
        format!("expanded={} system={}", self.expanded, self.system)
    }
}

/// Where the stream begins.
#[derive(Clone, Copy)]
pub(super) enum From<'a> {
    Now,
    /// At the first event of this time or later.
    Time(Timestamp),
    /// Behind this token. `startAfter` takes every token that `resumeAfter` takes, and that of an `invalidate` too.
    Token(&'a bson::RawDocument),
}

/// The command. It returns at once, without events: errors about the place come with the first `getMore`.
/// With `wanted`, the server sends only the events that match it.
pub(super) fn aggregate(
    settings: &Settings,
    features: Features,
    from: From<'_>,
    wanted: Option<&Document>,
) -> RawDocumentBuf {
    let mut stage = RawDocumentBuf::new();
    if settings.database.is_none() {
        stage.append(cstr!("allChangesForCluster"), true);
    }
    match settings.full_document {
        FullDocument::Default => {}
        FullDocument::UpdateLookup => stage.append(cstr!("fullDocument"), "updateLookup"),
        FullDocument::WhenAvailable => stage.append(cstr!("fullDocument"), "whenAvailable"),
        FullDocument::Required => stage.append(cstr!("fullDocument"), "required"),
    }
    match settings.full_document_before_change {
        BeforeChange::Off => {}
        BeforeChange::WhenAvailable => stage.append(cstr!("fullDocumentBeforeChange"), "whenAvailable"),
        BeforeChange::Required => stage.append(cstr!("fullDocumentBeforeChange"), "required"),
    }
    match from {
        From::Now => {}
        From::Time(time) => stage.append(cstr!("startAtOperationTime"), time),
        From::Token(token) => stage.append(cstr!("startAfter"), token),
    }
    for (wanted, name) in [
        (features.expanded, cstr!("showExpandedEvents")),
        (features.raw_updates, cstr!("showRawUpdateDescription")),
        (features.system, cstr!("showSystemEvents")),
    ] {
        if wanted {
            stage.append(name, true);
        }
    }
    let mut pipeline = RawArrayBuf::new();
    pipeline.push(rawdoc! {"$changeStream": stage});
    let wanted = wanted.and_then(|wanted| RawDocumentBuf::try_from(wanted).ok());
    let restricts = wanted.is_some();
    if let Some(wanted) = wanted {
        pipeline.push(rawdoc! {"$match": wanted});
    }
    if features.split {
        // Must be the last stage.
        pipeline.push(rawdoc! {"$changeStreamSplitLargeEvent": {}});
    }
    let mut command = RawDocumentBuf::new();
    match &settings.collection {
        Some(coll) => command.append(cstr!("aggregate"), coll.as_str()),
        None => command.append(cstr!("aggregate"), 1),
    }
    command.append(cstr!("pipeline"), pipeline);
    command.append(cstr!("cursor"), rawdoc! {"batchSize": 0});
    // The only one that change streams allow, whatever the deployment's default is.
    command.append(cstr!("readConcern"), rawdoc! {"level": "majority"});
    if restricts {
        // As the filters compare, whatever the collection does.
        command.append(cstr!("collation"), rawdoc! {"locale": "simple"});
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_given_up_one_by_one_and_never_without_end() {
        let mut f = Features { expanded: true, raw_updates: true, system: true, split: true };
        let mut rounds = 0;
        for code in [40324, 40415, 40415, 40415] {
            f = f.without(Some(code)).unwrap();
            rounds += 1;
        }
        assert_eq!(rounds, 4);
        assert_eq!(f, Features { expanded: false, raw_updates: false, system: false, split: false });
        for code in [40324, 40415, 13] {
            assert_eq!(f.without(Some(code)), None);
        }
        assert_eq!(f.without(None), None);
    }
}
