//! An oplog entry from anywhere: decoding ends in events or in an error of kind `Data`, never in a panic.

use oplogue_api::{
    Doc, ErrorKind, hash_key,
    oplog::{Decoder, Outcome},
};

pub fn check(bytes: &[u8]) {
    let Ok(entry) = Doc::new(bytes.to_vec().into()) else { return };
    let (mut events, mut bad) = (Vec::new(), Vec::new());
    let mut decoder = Decoder::new(true);
    if let Outcome::NeedsChain(mut chain) = decoder.entry(&entry, &mut events, &mut bad).outcome {
        // The entry itself stands for the ones before it.
        let _ = chain.link(&entry);
        decoder.chain_entry(&mut chain, &entry, &mut events, &mut bad);
        decoder.chain_end(chain, &mut events, &mut bad);
    }
    for event in &events {
        assert!(event.op.is_barrier() || event.key.is_some());
        event.key.as_deref().map(hash_key);
        if let Some(Err(e)) = event.change.as_ref().map(|change| change.decode()) {
            assert_eq!(e.kind(), ErrorKind::Data);
        }
    }
    for bad in &bad {
        assert!(bad.before <= events.len());
        assert_eq!(bad.error.kind(), ErrorKind::Data);
    }
}
