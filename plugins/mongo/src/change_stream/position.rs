//! The positions of this source.

use bson::{RawDocument, Timestamp, rawdoc};
use oplogue_api::{Doc, Error, Position, Result};

use super::token;

/// What belongs to the stream as a whole, and is stored beside every token: a token of another collection is accepted by
/// the server and then yields nothing, for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stream {
    /// The identity of the deployment, where it could be read.
    pub deployment: Option<String>,
    /// `database.collection`, `database`, or empty for the whole deployment.
    pub scope: String,
    /// What the server filters, as text: an event token is valid for that only.
    pub pipeline: String,
}

/// Where to resume.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// The server's own token, `{_data: HEX}`.
    pub token: Doc,
    /// The token was made with another filter on the server: resume by time, and skip what the token has passed.
    pub by_time: bool,
}

const KIND: &str = "mongo-change-stream";

impl Stream {
    /// The position behind `token`, of cluster time `time`.
    pub fn position(&self, token: &RawDocument, time: Timestamp) -> Position {
        // A high-water mark stands before the events of its time.
        let is_event = token::read(token).is_none_or(|token| token.event);
        let time = if is_event { time } else { just_before(time) };
        let mut doc = rawdoc! {"source": KIND, "scope": self.scope.as_str(), "pipeline": self.pipeline.as_str()};
        if let Some(id) = &self.deployment {
            doc.append(bson::cstr!("deployment"), id.as_str());
        }
        doc.append(bson::cstr!("token"), token);
        Position { token: Doc::from(doc), time }
    }

    /// The place of a position.
    ///
    /// # Errors
    /// Of kind `Operator` when the position belongs to another source, deployment or scope, or has another shape.
    pub fn place(&self, position: &Position) -> Result<Place> {
        const HINT: &str = "reset the position of this route, or restore the configuration that it was made with";
        let doc = &position.token;
        if !doc.get_str("source").is_ok_and(|kind| kind == KIND) {
            return Err(Error::operator("the checkpoint was not made by a mongo-change-stream source").hint(HINT));
        }
        let (Ok(token), Ok(scope), Ok(pipeline)) =
            (doc.get_document("token"), doc.get_str("scope"), doc.get_str("pipeline"))
        else {
            return Err(Error::operator("the checkpoint has an unknown shape").hint(HINT));
        };
        if let (Ok(theirs), Some(ours)) = (doc.get_str("deployment"), &self.deployment)
            && theirs != ours
        {
            return Err(Error::operator(format!(
                "the checkpoint belongs to another deployment ({theirs}); the server at the URI is {ours}"
            ))
            .hint("point the source at the deployment that it was reading, or reset the position of this route"));
        }
        if scope != self.scope {
            let name = |scope: &str| match scope {
                "" => "the whole deployment".to_owned(),
                scope => format!("`{scope}`"),
            };
            let (theirs, ours) = (name(scope), name(&self.scope));
            return Err(
                Error::operator(format!("the checkpoint is one of {theirs}, and the source reads {ours}")).hint(HINT)
            );
        }
        if token::read(token).is_none() {
            return Err(Error::position_lost("the resume token of the checkpoint is damaged")
                .hint("reset the position of this route, and resync"));
        }
        Ok(Place { token: doc.slice(token).detach(), by_time: pipeline != self.pipeline })
    }
}

/// The latest time before this one.
fn just_before(Timestamp { time, increment }: Timestamp) -> Timestamp {
    match increment.checked_sub(1) {
        Some(increment) => Timestamp { time, increment },
        None => Timestamp { time: time.saturating_sub(1), increment: u32::MAX },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::RawDocumentBuf;
    use oplogue_api::ErrorKind;

    fn stream(deployment: Option<&str>, scope: &str, pipeline: &str) -> Stream {
        Stream { deployment: deployment.map(str::to_owned), scope: scope.into(), pipeline: pipeline.into() }
    }

    const TIME: Timestamp = Timestamp { time: 1_795_230_382, increment: 2 };

    fn some_token() -> RawDocumentBuf {
        rawdoc! {"_data": "826B010AAE000000022B0229296E04"}
    }

    #[test]
    fn a_position_comes_back() {
        let s = stream(Some("aa"), "db.c", "1");
        let place = s.place(&s.position(&some_token(), TIME)).unwrap();
        assert_eq!(place, Place { token: some_token().into(), by_time: false });
        let other = stream(Some("aa"), "db.c", "2");
        assert!(other.place(&s.position(&some_token(), TIME)).unwrap().by_time);
        let unknown = stream(None, "db.c", "1");
        unknown.place(&s.position(&some_token(), TIME)).unwrap();
        s.place(&unknown.position(&some_token(), TIME)).unwrap();
    }

    #[test]
    fn a_foreign_position_is_refused() {
        let s = stream(Some("aa"), "db.c", "1");
        let kind = |p: &Position| s.place(p).unwrap_err().kind();
        for other in [stream(Some("bb"), "db.c", "1"), stream(Some("aa"), "db.d", "1"), stream(Some("aa"), "", "1")] {
            assert_eq!(kind(&other.position(&some_token(), TIME)), ErrorKind::Operator);
        }
        let bare = |doc: RawDocumentBuf| Position { token: Doc::from(doc), time: TIME };
        assert_eq!(kind(&bare(rawdoc! {})), ErrorKind::Operator);
        assert_eq!(kind(&bare(rawdoc! {"source": KIND})), ErrorKind::Operator);
        assert_eq!(kind(&bare(rawdoc! {"source": "mongo-oplog", "scope": "db.c"})), ErrorKind::Operator);
        assert_eq!(kind(&s.position(&rawdoc! {"_data": "8299"}, TIME)), ErrorKind::PositionLost);
    }
}
