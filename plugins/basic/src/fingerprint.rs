/// FNV-1a over bytes: for names and identities that must be the same from one version of oplogue to the next, which the
/// standard library's hashes do not promise.
pub(crate) fn fingerprint(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |h, b| (h ^ u64::from(*b)).wrapping_mul(0x100_0000_01b3))
}
