//! A cursor that is read ahead.

use futures_util::StreamExt;
use mongodb::raw_batch_cursor::{RawBatch, RawBatchCursor};
use tokio::{sync::mpsc, task::JoinSet};

/// The replies of a cursor. While one is decoded and delivered, the server already works on the next: taking turns
/// costs a sixth of the rate.
///
/// Not for change streams: there the server is so much slower than the router that it gains nothing.
///
/// I6: at most one reply waits here, besides the one that was taken last. Dropping this closes the cursor.
pub(super) struct Ahead {
    replies: mpsc::Receiver<mongodb::error::Result<RawBatch>>,
    /// Aborted when dropped.
    _reader: JoinSet<()>,
}

impl Ahead {
    pub fn new(mut cursor: RawBatchCursor) -> Ahead {
        let (sender, replies) = mpsc::channel(1);
        let mut reader = JoinSet::new();
        reader.spawn(async move {
            // Room first, and only then the next request.
            while let Ok(room) = sender.reserve().await {
                let Some(reply) = cursor.next().await else { break };
                let failed = reply.is_err();
                room.send(reply);
                if failed {
                    break;
                }
            }
        });
        Ahead { replies, _reader: reader }
    }

    /// The next reply, in order; `None` behind the last, and behind an error.
    ///
    /// Cancel-safe: a reply is either returned or still waits here.
    pub async fn next(&mut self) -> Option<mongodb::error::Result<RawBatch>> {
        self.replies.recv().await
    }
}
