//! The `file` sink: events as BSON documents, appended to a file, for dead letters and for captures.

mod appender;
#[cfg(test)]
mod tests;

use std::{path::PathBuf, sync::Arc};

use oplogue_api::{
    Error, Event, Field, FieldType, Finding, Ordering, Position, Registry, Result, Sink, Written, async_trait,
};
use serde::Deserialize;
use tokio::sync::Mutex;

use appender::Appender;

const FIELDS: &[Field] =
    &[Field::new("path", FieldType::String, "The file; made when it is not there, appended to when it is")
        .required()
        .example("\"letters.bson\"")];

pub(crate) fn register(r: &mut Registry) {
    r.sink("file", "Appends events to a file, as BSON: for dead letters, and to be replayed", FIELDS, |_, options| {
        let options: FileOptions = options.parse()?;
        if options.path.as_os_str().is_empty() {
            return Err(Error::option("path", "the path of the file is empty")
                .hint("name a file such as path = \"letters.bson\""));
        }
        Ok(Arc::new(FileSink { path: options.path, appender: Mutex::default() }))
    });
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileOptions {
    path: PathBuf,
}

/// See the module. An event is [`Event::to_document`]; the file is a sequence of documents, as that of `mongodump` is.
struct FileSink {
    path: PathBuf,
    appender: Mutex<Option<Arc<Appender>>>,
}

impl FileSink {
    async fn appender(&self) -> Result<Arc<Appender>> {
        let mut open = self.appender.lock().await;
        if let Some(open) = &*open {
            return Ok(Arc::clone(open));
        }
        let path = self.path.clone();
        let opened = at_the_disk(move || Appender::open(&path)).await??;
        *open = Some(Arc::clone(&opened));
        Ok(opened)
    }
}

async fn at_the_disk<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Error::bug("the thread that writes the file failed").caused_by(e))
}

#[async_trait]
impl Sink for FileSink {
    fn ordering(&self) -> Ordering {
        Ordering::Total
    }

    async fn open(&self) -> Result<()> {
        self.appender().await.map(|_| ())
    }

    async fn write(&self, events: &[Event], _upto: Option<&Position>) -> Result<Written> {
        if events.is_empty() {
            return Ok(Written::default());
        }
        let appender = self.appender().await?;
        let bytes: Vec<u8> = events.iter().flat_map(|event| event.to_document().into_bytes()).collect();
        // Goes with the work: a call that is dropped is still in front of the next.
        let turn = Arc::clone(&appender.turn).lock_owned().await;
        at_the_disk(move || {
            let _turn = turn;
            appender.append(&bytes)
        })
        .await??;
        Ok(Written::default())
    }

    async fn ping(&self) -> Result<()> {
        self.appender().await?.is_well()
    }

    async fn close(&self) -> Result<()> {
        // Every write has been made durable.
        *self.appender.lock().await = None;
        Ok(())
    }

    async fn check(&self) -> Vec<Finding> {
        vec![match appender::check(&self.path) {
            Ok(what) => Finding::ok(what),
            Err(e) => e.into(),
        }]
    }
}
