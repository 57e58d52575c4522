use std::fmt;

use oplogue_api::Error;

/// What is wrong with a query, and where in it.
#[derive(Debug)]
pub(super) struct Wrong {
    pub at: String,
    pub what: String,
    pub hint: String,
}

impl Wrong {
    /// As an error of the option that holds the query.
    pub fn of_option(self, option: &str) -> Error {
        let place = match self.at.as_str() {
            "" => option.to_owned(),
            at => format!("{option}.{at}"),
        };
        Error::option(&place, format!("`{place}`: {}", self.what)).hint(self.hint)
    }
}

/// A place in a query, such as `$or[1].price.$gt`.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    Root,
    Field(&'a Place<'a>, &'a str),
    Index(&'a Place<'a>, usize),
}

impl<'a> Place<'a> {
    pub fn field(&'a self, name: &'a str) -> Place<'a> {
        Place::Field(self, name)
    }
    pub fn index(&'a self, n: usize) -> Place<'a> {
        Place::Index(self, n)
    }
    /// Something is wrong here.
    pub fn wrong<T>(&self, what: impl Into<String>, hint: impl Into<String>) -> Result<T, Wrong> {
        Err(Wrong { at: self.to_string(), what: what.into(), hint: hint.into() })
    }
    pub fn depth(&self) -> usize {
        match self {
            Place::Root => 0,
            Place::Field(outer, _) | Place::Index(outer, _) => outer.depth() + 1,
        }
    }
}

impl fmt::Display for Place<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Root => Ok(()),
            Place::Field(Place::Root, name) => f.write_str(name),
            Place::Field(outer, name) => write!(f, "{outer}.{name}"),
            Place::Index(outer, n) => write!(f, "{outer}[{n}]"),
        }
    }
}
