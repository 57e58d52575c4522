//! The position token: `{rs?: text, ts: timestamp, t: int64, first?: true}`.

use bson::{
    RawDocumentBuf, Timestamp,
    raw::{RawBsonRef, cstr},
};
use oplogue_api::{Error, Position, Result, oplog::OpTime};

/// A place in the oplog.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    /// An entry that was there when the place was taken. All zero: the oplog was empty.
    pub at: OpTime,
    /// Whether reading begins with that entry, and not behind it.
    pub first: bool,
}

impl Place {
    /// Before the first entry that an empty oplog will ever have.
    pub const EMPTY: Place = Place { at: OpTime { ts: Timestamp { time: 0, increment: 0 }, t: -1 }, first: true };

    /// Behind an entry.
    pub fn behind(at: OpTime) -> Place {
        Place { at, first: false }
    }

    /// With the identity of the deployment, if the user may read it.
    pub fn to_position(self, deployment: Option<&str>) -> Position {
        let mut token = RawDocumentBuf::new();
        if let Some(id) = deployment {
            token.append(cstr!("rs"), id);
        }
        token.append(cstr!("ts"), self.at.ts);
        token.append(cstr!("t"), self.at.t);
        if self.first {
            token.append(cstr!("first"), true);
        }
        Position { token: token.into(), time: self.at.ts }
    }

    /// Reads a token back.
    ///
    /// # Errors
    /// `Operator` for a token that is not of this source, or of another deployment: a checkpoint that does not belong here
    /// is a mistake in the configuration, and reading on from it would be a silent jump (I4).
    pub fn from_position(position: &Position, deployment: Option<&str>) -> Result<Place> {
        let foreign = || {
            Error::operator("the position was not made by a mongo-oplog source")
                .hint("the route had another source before: give it a new name, or run `oplogue position reset`")
        };
        let (mut ts, mut t, mut first) = (None, None, false);
        for element in position.token.iter() {
            let (key, value) = element.map_err(|_| foreign())?;
            match (key.as_str(), value) {
                ("rs", RawBsonRef::String(saved)) => {
                    if deployment.is_some_and(|now| now != saved) {
                        return Err(Error::operator("the position belongs to another replica set")
                            .hint("the URI leads to another deployment than before (or to one that was set up anew): correct it, or run `oplogue position reset` and resync"));
                    }
                }
                ("ts", RawBsonRef::Timestamp(value)) => ts = Some(value),
                ("t", RawBsonRef::Int64(value)) => t = Some(value),
                ("first", RawBsonRef::Boolean(value)) => first = value,
                _ => return Err(foreign()),
            }
        }
        match (ts, t) {
            (Some(ts), Some(t)) => Ok(Place { at: OpTime { ts, t }, first }),
            _ => Err(foreign()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bson::{Document, doc};
    use oplogue_api::ErrorKind;

    fn position(token: Document) -> Position {
        let token = RawDocumentBuf::try_from(&token).unwrap().into();
        Position { token, time: Timestamp { time: 7, increment: 2 } }
    }

    #[test]
    fn a_place_survives_the_token() {
        let at = OpTime { ts: Timestamp { time: 7, increment: 2 }, t: 3 };
        for place in [Place::behind(at), Place { at, first: true }, Place::EMPTY] {
            for id in [None, Some("abc")] {
                let position = place.to_position(id);
                assert_eq!(position.time, place.at.ts);
                assert_eq!(Place::from_position(&position, id).unwrap(), place);
            }
        }
    }

    #[test]
    fn the_position_of_another_deployment_is_refused() {
        let position = Place::EMPTY.to_position(Some("abc"));
        assert_eq!(Place::from_position(&position, Some("def")).unwrap_err().kind(), ErrorKind::Operator);
        // A user who may not read the identity cannot be told apart; the term still is compared.
        assert!(Place::from_position(&position, None).is_ok());
    }

    #[test]
    fn a_token_of_another_source_is_refused() {
        let ts = Timestamp { time: 7, increment: 2 };
        for token in [
            doc! {},
            doc! {"ts": ts},
            doc! {"t": 1_i64},
            doc! {"ts": 1, "t": 1_i64},
            doc! {"_data": "8263"},
            doc! {"ts": ts, "t": 1_i64, "resume": 1},
        ] {
            let e = Place::from_position(&position(token.clone()), None).unwrap_err();
            assert_eq!(e.kind(), ErrorKind::Operator, "{token}");
        }
    }
}
