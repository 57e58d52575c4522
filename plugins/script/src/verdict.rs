use oplogue_api::{Error, Event};

/// What becomes of an event.
#[derive(Debug)]
pub enum Verdict {
    /// It goes on as it is.
    Keep,
    /// The script leaves it out.
    Drop,
    /// This one goes on in its place.
    Replace(Box<Event>),
    /// `on_bad_event` decides.
    Bad(Error),
}
