use std::{error::Error as StdError, fmt};

/// The result of a plugin call.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What an error means for the route. The engine decides by the kind and the place alone; see `docs/plugin-contract.md`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// May work later without anybody's help: retried with back-off for as long as it takes.
    Transient,
    /// This event cannot be decoded, transformed or delivered, whatever is tried: `on_bad_event` decides.
    Data,
    /// The place to resume from is gone from the source: `on_position_lost` decides.
    PositionLost,
    /// Only a person can mend it: the route stops and says what to do, the others run on.
    Operator,
    /// A fault in oplogue or a plugin: the route is restarted, and stopped after 5 restarts in 10 minutes.
    Bug,
}

impl ErrorKind {
    /// The name used in metrics and in the HTTP API.
    pub fn name(self) -> &'static str {
        match self {
            ErrorKind::Transient => "transient",
            ErrorKind::Data => "data",
            ErrorKind::PositionLost => "position_lost",
            ErrorKind::Operator => "operator",
            ErrorKind::Bug => "bug",
        }
    }
}

/// An error with its kind and a hint for the operator.
///
/// Neither message nor hint may hold a secret or a part of a document (I8): both are logged, and shown over HTTP.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    message: String,
    hint: Option<String>,
    field: Option<String>,
    ended: bool,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// An error of `kind`. The message says what happened, in a sentence without a full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Error {
        Error(Box::new(Inner { kind, message: message.into(), hint: None, field: None, ended: false, source: None }))
    }
    /// See [`ErrorKind::Transient`].
    pub fn transient(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Transient, message)
    }
    /// See [`ErrorKind::Data`].
    pub fn data(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Data, message)
    }
    /// See [`ErrorKind::PositionLost`].
    pub fn position_lost(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::PositionLost, message)
    }
    /// See [`ErrorKind::Operator`].
    pub fn operator(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Operator, message)
    }
    /// See [`ErrorKind::Bug`].
    pub fn bug(message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Bug, message)
    }
    /// A wrong value of the option `field` of a plugin: the configuration points at that key in the file.
    pub fn option(field: impl Into<String>, message: impl Into<String>) -> Error {
        let mut e = Error::new(ErrorKind::Operator, message);
        e.0.field = Some(field.into());
        e
    }
    /// The destination was closed on purpose by whoever reads it (a closed pipe): the route ends, and it is no failure.
    pub fn ended(message: impl Into<String>) -> Error {
        let mut e = Error::new(ErrorKind::Operator, message);
        e.0.ended = true;
        e
    }
    /// Adds what the operator should do.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Error {
        self.0.hint = Some(hint.into());
        self
    }
    /// Adds the error that caused this one.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.0.source = Some(source.into());
        self
    }
    /// Puts `place: ` before the message.
    #[must_use]
    pub fn at(mut self, place: impl fmt::Display) -> Error {
        self.0.message = format!("{place}: {}", self.0.message);
        self
    }
    /// What the error means for the route.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }
    /// What happened.
    pub fn message(&self) -> &str {
        &self.0.message
    }
    /// What the operator should do.
    pub fn get_hint(&self) -> Option<&str> {
        self.0.hint.as_deref()
    }
    /// The plugin option that is wrong, for an error made by [`Error::option`].
    pub fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }
    /// Whether this is the quiet end of a destination, see [`Error::ended`].
    pub fn is_ended(&self) -> bool {
        self.0.ended
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)?;
        let mut cause = self.0.source.as_deref().map(|e| e as &dyn StdError);
        while let Some(e) = cause {
            write!(f, ": {e}")?;
            cause = e.source();
        }
        Ok(())
    }
}

impl StdError for Error {}
