//! A checksum of each file of a layer: what tar-split records of a file beside its name.
//!
//! containers-storage keeps such a record of every layer, to put the layer's archive together again from what was
//! unpacked. It asks for the CRC-64 of Go's `hash/crc64` with the ISO table. The sums are made while a layer is hashed,
//! so that a model need not be read once more for them.

use crc_fast::{CrcAlgorithm, Digest};

use crate::disk::pipe::Consumer;

/// The CRC-64/GO-ISO of each regular file that has at least one byte, in the order of the layer's stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Checksums(Vec<u64>);

/// The running sum of one file.
pub(super) struct Checksum(Digest);

impl Checksums {
    /// The sums, one after the other.
    #[must_use]
    pub(crate) fn as_slice(&self) -> &[u64] {
        &self.0
    }

    /// How they are kept on disk: eight bytes each, the most significant one first.
    #[must_use]
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        self.0.iter().flat_map(|sum| sum.to_be_bytes()).collect()
    }

    /// Reads [`to_bytes`](Self::to_bytes); `None` if the last sum is cut off.
    #[must_use]
    pub(crate) fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (sums, rest) = bytes.as_chunks();
        rest.is_empty().then(|| Self(sums.iter().map(|sum| u64::from_be_bytes(*sum)).collect()))
    }

    pub(super) fn push(&mut self, sum: Checksum) {
        self.0.push(sum.0.finalize());
    }
}

impl Checksum {
    pub(super) fn new() -> Self {
        Self(Digest::new(CrcAlgorithm::Crc64GoIso))
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// Sums what it sees.
    pub(super) fn reader(&mut self) -> Consumer<'_> {
        Box::new(|chunk| {
            self.update(chunk);
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(chunks: &[&[u8]]) -> Checksums {
        let (mut sums, mut sum) = (Checksums::default(), Checksum::new());
        chunks.iter().for_each(|chunk| sum.update(chunk));
        sums.push(sum);
        sums
    }

    /// As the polynomial is written: bit by bit.
    fn slow(bytes: &[u8]) -> u64 {
        !bytes.iter().fold(!0, |crc, byte| {
            (0..8).fold(
                crc ^ u64::from(*byte),
                |crc, _| if crc & 1 == 1 { crc >> 1 ^ 0xd800_0000_0000_0000 } else { crc >> 1 },
            )
        })
    }

    #[test]
    fn sums_are_those_of_go() {
        // The check value of CRC-64/GO-ISO, and two of Go's own (hash/crc64/crc64_test.go).
        for (text, sum) in
            [("123456789", 0xb909_56c7_75a4_1001), ("a", 0x3420_0000_0000_0000), ("ab", 0x36c4_2000_0000_0000)]
        {
            assert_eq!(of(&[text.as_bytes()]).as_slice(), [sum], "{text}");
        }
    }

    #[test]
    fn half_a_sum_is_none() {
        assert_eq!(Checksums::from_bytes(&[]), Some(Checksums::default()));
        assert_eq!(Checksums::from_bytes(&[0, 0, 0, 0, 0, 0, 1, 2]), Some(Checksums(vec![258])));
        assert_eq!(Checksums::from_bytes(&[0; 15]), None);
    }

    proptest! {
        #[test]
        fn sums_are_read_back(sums in prop::collection::vec(any::<u64>(), 0..9)) {
            let sums = Checksums(sums);
            prop_assert_eq!(Checksums::from_bytes(&sums.to_bytes()), Some(sums));
        }

        #[test]
        fn chunks_make_no_difference(bytes in prop::collection::vec(any::<u8>(), 1..5000), at in any::<prop::sample::Index>()) {
            let (one, two) = bytes.split_at(at.index(bytes.len()));
            prop_assert_eq!(of(&[one, two]).0, vec![slow(&bytes)]);
        }
    }
}
