use std::fmt;

use bson::RawBsonRef;

use crate::{Doc, Result, oplog};

/// What an update changed, as the server described it. Decoded on demand with [`Change::decode`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// `updateDescription` of a change event: `{updatedFields, removedFields, truncatedArrays?, disambiguatedPaths?}`.
    ChangeStream(Doc),
    /// The modifiers of an oplog entry of version 1: `{$v: 1, $set: {…}, $unset: {…}}`.
    OplogV1(Doc),
    /// The `diff` of an oplog entry of version 2, which is also `rawUpdateDescription.diff` of a change event.
    OplogV2(Doc),
}

/// An update in one shape for all sources. The values borrow from the change.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Update<'a> {
    /// Fields that were set or added, with their new values.
    pub set: Vec<(Path<'a>, RawBsonRef<'a>)>,
    /// Fields that were removed.
    pub unset: Vec<Path<'a>>,
    /// Arrays that were cut (or padded with null) to a length.
    pub truncate: Vec<(Path<'a>, u32)>,
}

/// The path of a field.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Path<'a> {
    /// As the server wrote it, with dots: `a.b` may be the field `b` of `a` or a field called `a.b`, and `0` an index or
    /// a field. All that change events (without `disambiguatedPaths`) and entries of version 1 can say.
    Dotted(&'a str),
    /// Exactly.
    Exact(Vec<PathPart<'a>>),
}

/// A step of an exact path.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PathPart<'a> {
    /// The name of a field, literally: dots and `$` have no meaning.
    Field(&'a str),
    /// An index of an array.
    Index(u32),
}

impl Path<'_> {
    /// The name of the top-level field that the path begins with. For a dotted path that is the part before the first
    /// dot, which is a guess where a field name holds a dot.
    pub fn top(&self) -> &str {
        match self {
            Path::Dotted(path) => path.split('.').next().unwrap_or(path),
            Path::Exact(parts) => match parts.first() {
                Some(PathPart::Field(name)) => name,
                _ => "",
            },
        }
    }

    /// Whether the dotted form of an exact path could be read as another path: a field name is empty, holds a dot, begins
    /// with `$` or looks like an index.
    pub fn is_ambiguous(&self) -> bool {
        let Path::Exact(parts) = self else { return false };
        parts.iter().any(|part| match part {
            PathPart::Field(name) => {
                name.is_empty()
                    || name.starts_with('$')
                    || name.contains('.')
                    || name.bytes().all(|b| b.is_ascii_digit())
            }
            PathPart::Index(_) => false,
        })
    }
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Dotted(path) => f.write_str(path),
            Path::Exact(parts) => {
                for (i, part) in parts.iter().enumerate() {
                    if i > 0 {
                        f.write_str(".")?;
                    }
                    match part {
                        PathPart::Field(name) => f.write_str(name)?,
                        PathPart::Index(n) => write!(f, "{n}")?,
                    }
                }
                Ok(())
            }
        }
    }
}

impl Change {
    /// A copy that shares no memory with the reply it came in.
    #[must_use]
    pub fn detach(&self) -> Change {
        match self {
            Change::ChangeStream(doc) => Change::ChangeStream(doc.detach()),
            Change::OplogV1(doc) => Change::OplogV1(doc.detach()),
            Change::OplogV2(doc) => Change::OplogV2(doc.detach()),
        }
    }

    /// The change in one shape for all sources.
    ///
    /// # Errors
    /// [`ErrorKind::Data`](crate::ErrorKind::Data) when the description does not follow the server's grammar.
    pub fn decode(&self) -> Result<Update<'_>> {
        match self {
            Change::ChangeStream(doc) => oplog::decode_description(doc),
            Change::OplogV1(doc) => oplog::decode_modifiers(doc),
            Change::OplogV2(doc) => oplog::decode_diff(doc),
        }
    }
}
