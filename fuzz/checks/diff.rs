//! Update descriptions from anywhere: two documents in a row, a change and the document that it is applied to.

use bson::{Document, RawDocumentBuf};
use oplogue_api::{Change, Doc, ErrorKind, oplog::apply};

pub fn check(bytes: &[u8]) {
    let Some(length) = bytes.first_chunk().map(|n| u32::from_le_bytes(*n) as usize) else { return };
    let Some((change, before)) = bytes.split_at_checked(length) else { return };
    let Ok(change) = Doc::new(change.to_vec().into()) else { return };
    for change in
        [Change::ChangeStream(change.clone()), Change::OplogV1(change.clone()), Change::OplogV2(change.clone())]
    {
        if let Err(e) = change.decode() {
            assert_eq!(e.kind(), ErrorKind::Data);
        }
    }
    // A sound document stays one, unless what the diff puts into it is unsound.
    let Ok(before) = RawDocumentBuf::from_bytes(before.to_vec()) else { return };
    if Document::try_from(before.as_ref()).is_err() || Document::try_from(&*change).is_err() {
        return;
    }
    if let Ok(after) = apply(&change, &before) {
        assert!(Document::try_from(after).is_ok());
    }
}
