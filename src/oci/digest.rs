//! Content digests: `sha256:<64 hex>`, and the writer that computes them.
//!
//! OCI addresses every blob by the digest of its bytes (image-spec, *descriptor.md*, "Digests"). windlass only
//! writes SHA-256: it is what containers-storage, Nix and Hugging Face agree on.

use std::fmt;
use std::io;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;
use sha256_pair::{Sha256, update_both, update_each};

use crate::class::{Class, Classified};

/// A SHA-256 digest, printed as `sha256:<64 lower-case hex digits>`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(into = "String", try_from = "String")]
pub struct Digest([u8; 32]);

/// Why a text is not a [`Digest`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a digest: expected 'sha256:' and 64 lower-case hex digits")]
pub struct ParseDigestError(String);

impl Classified for ParseDigestError {
    fn class(&self) -> Class {
        Class::Failed
    }
}

impl Digest {
    /// The digest of these bytes.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(sha2::Sha256::digest(bytes).into())
    }

    /// The digest with these 32 bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 64 hex digits without the algorithm: the name of a blob file.
    #[must_use]
    pub fn hex(&self) -> String {
        to_hex(&self.0)
    }

    /// The first 12 hex digits, for tables.
    #[must_use]
    pub fn short(&self) -> String {
        self.hex()[..12].to_owned()
    }

    /// Reads 64 lower-case hex digits.
    ///
    /// # Errors
    /// If there are not exactly 64 of them.
    pub(crate) fn from_hex(hex: &str) -> Result<Self, ParseDigestError> {
        from_hex(hex).and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or_else(|| ParseDigestError(hex.to_owned()))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = text.strip_prefix("sha256:").ok_or_else(|| ParseDigestError(text.to_owned()))?;
        Self::from_hex(hex).map_err(|_| ParseDigestError(text.to_owned()))
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

impl TryFrom<String> for Digest {
    type Error = ParseDigestError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Lower-case hex of any bytes.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes.iter().flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]]).map(char::from).collect()
}

/// The bytes of lower-case hex; `None` for an odd length or any other character.
#[must_use]
pub(crate) fn from_hex(hex: &str) -> Option<Vec<u8>> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let bytes = hex.as_bytes();
    if !bytes.len().is_multiple_of(2) {
        return None;
    }
    bytes.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

/// A running SHA-256 that also counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Hasher(Sha256);

impl Hasher {
    /// Nothing hashed yet.
    #[must_use]
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// Hashes these bytes.
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Hashes these bytes into all of them; into two at little more than the price of one.
    pub(crate) fn update_all(hashers: &mut [&mut Self], bytes: &[u8]) {
        let (pairs, rest) = hashers.as_chunks_mut::<2>();
        for [one, two] in pairs {
            update_both([&mut one.0, &mut two.0], bytes);
        }
        rest.iter_mut().for_each(|hasher| hasher.update(bytes));
    }

    /// Hashes into each its own bytes; cheapest if these are as many.
    pub(crate) fn update_each([one, two]: [&mut Self; 2], bytes: [&[u8]; 2]) {
        update_each([&mut one.0, &mut two.0], bytes);
    }

    /// How many bytes were hashed.
    #[must_use]
    pub(crate) const fn count(&self) -> u64 {
        self.0.count()
    }

    /// The digest of all bytes, and how many they were.
    #[must_use]
    pub(crate) fn finish(self) -> (Digest, u64) {
        let count = self.count();
        (Digest(self.0.finish()), count)
    }
}

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_and_reads_itself() {
        // FIPS 180-4's own vector.
        let text = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(Digest::of(b"abc").to_string(), text);
        assert_eq!(text.parse::<Digest>().unwrap(), Digest::of(b"abc"));
    }

    #[test]
    fn refuses_what_is_not_a_digest() {
        let upper = Digest::of(b"abc").to_string().to_uppercase();
        for text in ["", "sha256:", "sha256:ba78", "md5:900150983cd24fb0d6963f7d28e17f72", upper.as_str(), "sha256:zz"]
        {
            assert!(text.parse::<Digest>().is_err(), "{text}");
        }
    }

    #[test]
    fn hasher_counts() {
        let mut hasher = Hasher::new();
        hasher.update(b"a");
        hasher.update(b"bc");
        assert_eq!(hasher.finish(), (Digest::of(b"abc"), 3));
    }

    #[test]
    fn several_hash_the_same_bytes() {
        for number in 0..5 {
            let mut all = vec![Hasher::new(); number];
            all.iter_mut().zip([b"a".as_slice(), b"", b"bc"]).for_each(|(hasher, head)| hasher.update(head));
            Hasher::update_all(&mut all.iter_mut().collect::<Vec<_>>(), &[7; 1000]);
            for (hasher, head) in all.into_iter().zip([b"a".as_slice(), b"", b"bc", b"", b""]) {
                let bytes = [head, &[7; 1000]].concat();
                assert_eq!(hasher.finish(), (Digest::of(&bytes), bytes.len() as u64));
            }
        }
    }
}
