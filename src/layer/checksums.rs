//! placeholder
/// x
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checksums(Vec<u64>);
impl Checksums {
    /// x
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().copied()
    }
    /// x
    pub fn sum(bytes: &[u8]) -> u64 {
        crc_fast::checksum(crc_fast::CrcAlgorithm::Crc64GoIso, bytes)
    }
}
