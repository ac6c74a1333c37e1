//! Two states at a time, with the SHA instructions of x86-64.

use core::arch::x86_64::{
    __m128i, _mm_add_epi32, _mm_alignr_epi8, _mm_extract_epi32, _mm_set_epi32, _mm_set_epi64x, _mm_sha256msg1_epu32,
    _mm_sha256msg2_epu32, _mm_sha256rnds2_epu32, _mm_shuffle_epi8, _mm_shuffle_epi32,
};

use crate::{Block, State};

#[rustfmt::skip]
const K: [u32; 64] = [
    0x428a_2f98, 0x7137_4491, 0xb5c0_fbcf, 0xe9b5_dba5, 0x3956_c25b, 0x59f1_11f1, 0x923f_82a4, 0xab1c_5ed5,
    0xd807_aa98, 0x1283_5b01, 0x2431_85be, 0x550c_7dc3, 0x72be_5d74, 0x80de_b1fe, 0x9bdc_06a7, 0xc19b_f174,
    0xe49b_69c1, 0xefbe_4786, 0x0fc1_9dc6, 0x240c_a1cc, 0x2de9_2c6f, 0x4a74_84aa, 0x5cb0_a9dc, 0x76f9_88da,
    0x983e_5152, 0xa831_c66d, 0xb003_27c8, 0xbf59_7fc7, 0xc6e0_0bf3, 0xd5a7_9147, 0x06ca_6351, 0x1429_2967,
    0x27b7_0a85, 0x2e1b_2138, 0x4d2c_6dfc, 0x5338_0d13, 0x650a_7354, 0x766a_0abb, 0x81c2_c92e, 0x9272_2c85,
    0xa2bf_e8a1, 0xa81a_664b, 0xc24b_8b70, 0xc76c_51a3, 0xd192_e819, 0xd699_0624, 0xf40e_3585, 0x106a_a070,
    0x19a4_c116, 0x1e37_6c08, 0x2748_774c, 0x34b0_bcb5, 0x391c_0cb3, 0x4ed8_aa4a, 0x5b9c_ca4f, 0x682e_6ff3,
    0x748f_82ee, 0x78a5_636f, 0x84c8_7814, 0x8cc7_0208, 0x90be_fffa, 0xa450_6ceb, 0xbef9_a3f7, 0xc671_78f2,
];

/// A state as the instructions take it.
#[derive(Clone, Copy)]
struct Lane {
    abef: __m128i,
    cdgh: __m128i,
}

impl Lane {
    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    fn of(state: &State) -> Self {
        let [a, b, c, d, e, f, g, h] = state.map(u32::cast_signed);
        Self { abef: _mm_set_epi32(a, b, e, f), cdgh: _mm_set_epi32(c, d, g, h) }
    }

    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    fn state(self) -> State {
        let Self { abef: x, cdgh: y } = self;
        [
            _mm_extract_epi32::<3>(x),
            _mm_extract_epi32::<2>(x),
            _mm_extract_epi32::<3>(y),
            _mm_extract_epi32::<2>(y),
            _mm_extract_epi32::<1>(x),
            _mm_extract_epi32::<0>(x),
            _mm_extract_epi32::<1>(y),
            _mm_extract_epi32::<0>(y),
        ]
        .map(i32::cast_unsigned)
    }

    /// Four rounds; `wk` is four words of the schedule with their constants added.
    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    fn rounds(&mut self, wk: __m128i) {
        self.cdgh = _mm_sha256rnds2_epu32(self.cdgh, self.abef, wk);
        self.abef = _mm_sha256rnds2_epu32(self.abef, self.cdgh, _mm_shuffle_epi32::<0x0e>(wk));
    }

    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    fn add(&mut self, former: Self) {
        self.abef = _mm_add_epi32(self.abef, former.abef);
        self.cdgh = _mm_add_epi32(self.cdgh, former.cdgh);
    }
}

/// The message schedule of a block, four words at a time.
struct Schedule([__m128i; 4]);

impl Schedule {
    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    fn of(block: &Block) -> Self {
        let big_endian = _mm_set_epi64x(0x0c0d_0e0f_0809_0a0b, 0x0405_0607_0001_0203);
        let (words, _) = block.as_chunks::<8>();
        let word = |n: usize| i64::from_le_bytes(words[n]);
        let four = |n: usize| _mm_shuffle_epi8(_mm_set_epi64x(word(2 * n + 1), word(2 * n)), big_endian);
        Self([four(0), four(1), four(2), four(3)])
    }

    /// The words of rounds `4 n` to `4 n + 3`; asked for in order.
    #[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
    fn words(&mut self, n: usize) -> __m128i {
        let m = &mut self.0;
        let [now, next, third, last] = [n, n + 1, n + 2, n + 3].map(|n| n % 4);
        if n >= 4 {
            let sum = _mm_add_epi32(_mm_sha256msg1_epu32(m[now], m[next]), _mm_alignr_epi8::<4>(m[last], m[third]));
            m[now] = _mm_sha256msg2_epu32(sum, m[last]);
        }
        m[now]
    }
}

#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
fn constants(n: usize) -> __m128i {
    let [a, b, c, d] = [0, 1, 2, 3].map(|i| K[4 * n + i].cast_signed());
    _mm_set_epi32(d, c, b, a)
}

/// A loop written out: the compiler leaves it a loop, and keeps the schedule in memory.
macro_rules! sixteen_times {
    ($n:ident => $body:block) => { sixteen_times!($n $body: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15) };
    ($n:ident $body:block: $($i:literal)+) => { $({ const $n: usize = $i; $body })+ };
}

/// The same blocks into two states. One schedule serves both, and the rounds of one fill the pauses of the other.
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
pub(crate) fn shared(states: [&mut State; 2], blocks: &[Block]) {
    let [one, two] = states;
    let (mut a, mut b) = (Lane::of(one), Lane::of(two));
    for block in blocks {
        let former = (a, b);
        let mut schedule = Schedule::of(block);
        sixteen_times!(N => {
            let wk = _mm_add_epi32(schedule.words(N), constants(N));
            a.rounds(wk);
            b.rounds(wk);
        });
        a.add(former.0);
        b.add(former.1);
    }
    (*one, *two) = (a.state(), b.state());
}

/// Each its own blocks, as many as both have. The rounds of one fill the pauses of the other.
#[target_feature(enable = "sha,sse2,ssse3,sse4.1")]
pub(crate) fn apart(states: [&mut State; 2], blocks: [&[Block]; 2]) {
    let [one, two] = states;
    let (mut a, mut b) = (Lane::of(one), Lane::of(two));
    for (first, second) in blocks[0].iter().zip(blocks[1]) {
        let former = (a, b);
        let mut schedules = (Schedule::of(first), Schedule::of(second));
        sixteen_times!(N => {
            let k = constants(N);
            a.rounds(_mm_add_epi32(schedules.0.words(N), k));
            b.rounds(_mm_add_epi32(schedules.1.words(N), k));
        });
        a.add(former.0);
        b.add(former.1);
    }
    (*one, *two) = (a.state(), b.state());
}
