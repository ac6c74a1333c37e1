//! Streams of bytes that are hashed two by two.
//!
//! A core hashes two streams at 1.2 to 1.7 times the rate of one ([`sha256_pair::update_each`]). So a thread that has gathered
//! [`CHUNK`] bytes of its stream does not hash them at once: it leaves them in [`HashPairs`], which all threads of a job share, and
//! reads on. If another stream has left bytes there too, it hashes both. When it has no buffer left to read into, and no other
//! stream has any bytes, it waits for one that has, if there are more streams than processors: these have something else to do
//! meanwhile. Otherwise it hashes its own bytes alone, so that a stream never waits for long for one that is slower.
//!
//! So two streams for each processor are hashed in the least time ([`in_pairs`]): with fewer, each finds the others at work on
//! their own bytes most of the time, and hashes alone.
//!
//! Memory: [`CHUNK`] × [`BUFFERS`] for each stream.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::pipe::{BUFFERS, CHUNK, ENOUGH};
use super::progress::processors;
use crate::oci::digest::{Digest, Hasher};

/// Streams for each processor that are enough for each to find another one.
const STREAMS: usize = 2;

/// How long a stream waits for another one before it takes all of them for slow.
const PATIENCE: Duration = Duration::from_millis(1);

/// Does a job whose threads hash so many streams, one each at a time, with as many threads as hash the fastest.
pub(crate) fn in_pairs<T: Send>(streams: usize, job: impl FnOnce() -> T + Send) -> T {
    let processors = rayon::current_num_threads();
    if streams <= processors {
        return job();
    }
    match rayon::ThreadPoolBuilder::new().num_threads(streams.min(STREAMS * processors)).build() {
        Ok(threads) => threads.install(job),
        // A system that gives no more threads than there are.
        Err(_) => job(),
    }
}

/// Where the streams of a job meet.
#[derive(Debug, Default)]
pub(crate) struct HashPairs {
    streams: Mutex<HashStreams>,
}

#[derive(Debug, Default)]
struct HashStreams {
    last: u64,
    /// Whether a stream has waited for others in vain since two were hashed together.
    are_slow: bool,
    open: BTreeMap<u64, HashStream>,
}

/// What a stream has left here.
#[derive(Debug, Default)]
struct HashStream {
    /// `None` while a thread hashes with it.
    hasher: Option<Hasher>,
    /// Buffers to be hashed, in order.
    full: VecDeque<Vec<u8>>,
    empty: Vec<Vec<u8>>,
    /// How many empty ones its thread waits for, if it waits.
    wanted: Option<usize>,
    /// It need not wait any more.
    turn: Arc<Condvar>,
}

impl HashStream {
    fn wake(&mut self) {
        if self.wanted.take().is_some() {
            self.turn.notify_one();
        }
    }
}

/// A part of a stream that a thread has taken, to hash it.
struct TakenBuffers {
    number: u64,
    hasher: Hasher,
    buffers: Vec<Vec<u8>>,
}

impl HashStreams {
    /// Whether the stream has bytes to be hashed, and no thread that hashes them.
    fn waits(&self, number: u64) -> bool {
        self.open.get(&number).is_some_and(|stream| stream.hasher.is_some() && !stream.full.is_empty())
    }

    /// Another stream that [waits](Self::waits), the one with the most bytes.
    fn other(&self, number: u64) -> Option<u64> {
        let others = self.open.iter().filter(|(other, _)| **other != number && self.waits(**other));
        others.max_by_key(|(_, stream)| stream.full.len()).map(|(other, _)| *other)
    }

    fn full(&self, number: u64) -> usize {
        self.open.get(&number).map_or(0, |stream| stream.full.len())
    }

    /// Takes the first buffers of a stream.
    fn take(&mut self, number: u64, count: usize) -> Option<TakenBuffers> {
        let stream = self.open.get_mut(&number)?;
        Some(TakenBuffers { number, hasher: stream.hasher.take()?, buffers: stream.full.drain(..count).collect() })
    }

    /// Gives back what was taken. A stream that has ended in the meantime needs nothing.
    fn give_back(&mut self, taken: TakenBuffers) {
        if let Some(stream) = self.open.get_mut(&taken.number) {
            stream.hasher = Some(taken.hasher);
            stream.empty.extend(taken.buffers);
            if stream.full.is_empty() || stream.wanted.is_some_and(|wanted| wanted <= stream.empty.len()) {
                stream.wake();
            }
        }
    }
}

impl HashPairs {
    fn lock(&self) -> MutexGuard<'_, HashStreams> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hashes what this stream has left, together with what another one has; alone only if `alone` says so. Gives the lock back
    /// with whether there was anything to do.
    fn hash<'p>(
        &'p self,
        mut streams: MutexGuard<'p, HashStreams>,
        number: u64,
        alone: bool,
    ) -> (MutexGuard<'p, HashStreams>, bool) {
        if !streams.waits(number) {
            return (streams, false);
        }
        let other = streams.other(number);
        let count = match other {
            Some(other) => streams.full(number).min(streams.full(other)),
            None if alone => 1,
            None => return (streams, false),
        };
        let both = [Some(number), other].into_iter().flatten();
        let mut taken: Vec<TakenBuffers> = both.filter_map(|number| streams.take(number, count)).collect();
        drop(streams);
        let are_two = taken.len() == 2;
        if let [mine, other] = taken.as_mut_slice() {
            for (one, two) in mine.buffers.iter().zip(&other.buffers) {
                Hasher::update_each([&mut mine.hasher, &mut other.hasher], [one, two]);
            }
        } else {
            taken
                .iter_mut()
                .for_each(|TakenBuffers { hasher, buffers, .. }| buffers.iter().for_each(|bytes| hasher.update(bytes)));
        }
        let mut streams = self.lock();
        taken.into_iter().for_each(|taken| streams.give_back(taken));
        streams.are_slow &= !are_two;
        (streams, true)
    }
}

/// One stream that is hashed, by the threads of all.
#[derive(Debug)]
pub(crate) struct PairedHasher<'p> {
    pairs: &'p HashPairs,
    number: u64,
    /// The buffer that is being filled.
    buffer: Vec<u8>,
    filled: usize,
    /// Buffers that there are.
    made: usize,
}

impl<'p> PairedHasher<'p> {
    /// A stream that nothing was hashed of.
    pub(crate) fn new(pairs: &'p HashPairs) -> Self {
        Self::going_on(pairs, Hasher::new())
    }

    /// A stream that begins with what this hash is of.
    pub(crate) fn going_on(pairs: &'p HashPairs, hasher: Hasher) -> Self {
        let mut streams = pairs.lock();
        streams.last += 1;
        let number = streams.last;
        streams.open.insert(number, HashStream { hasher: Some(hasher), ..HashStream::default() });
        Self { pairs, number, buffer: vec![0; CHUNK], filled: 0, made: 1 }
    }

    /// Where the next bytes of the stream can be put: never empty.
    pub(crate) fn space(&mut self) -> &mut [u8] {
        &mut self.buffer[self.filled..]
    }

    /// So many bytes were put into the [space](Self::space).
    pub(crate) fn advance(&mut self, count: usize) {
        self.filled += count;
        if self.filled == self.buffer.len() {
            self.hand_over();
        }
    }

    /// The next bytes of the stream.
    pub(crate) fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.space();
            let (now, later) = bytes.split_at(bytes.len().min(space.len()));
            space[..now.len()].copy_from_slice(now);
            self.advance(now.len());
            bytes = later;
        }
    }

    /// Leaves the full buffer to be hashed, and takes another one.
    fn hand_over(&mut self) {
        let mut streams = self.pairs.lock();
        if let Some(stream) = streams.open.get_mut(&self.number) {
            stream.full.push_back(mem::take(&mut self.buffer));
        }
        self.filled = 0;
        (streams, _) = self.pairs.hash(streams, self.number, false);
        loop {
            if let Some(buffer) = streams.open.get_mut(&self.number).and_then(|stream| stream.empty.pop()) {
                self.buffer = buffer;
                return;
            }
            if self.made < BUFFERS {
                self.made += 1;
                self.buffer = vec![0; CHUNK];
                return;
            }
            let is_worth_a_wait = !streams.are_slow && streams.open.len() > processors();
            streams = self.hash_or_wait(streams, is_worth_a_wait);
        }
    }

    /// Hashes what this stream has left, or waits until that has been done; `for_another` stream it waits as well, to be hashed
    /// with it.
    fn hash_or_wait<'s>(&self, streams: MutexGuard<'s, HashStreams>, for_another: bool) -> MutexGuard<'s, HashStreams>
    where
        'p: 's,
    {
        let (mut streams, is_hashed) = self.pairs.hash(streams, self.number, !for_another);
        let Some(stream) = streams.open.get_mut(&self.number).filter(|_| !is_hashed) else { return streams };
        stream.wanted = Some(if for_another { ENOUGH } else { 0 });
        let turn = Arc::clone(&stream.turn);
        if !for_another {
            return turn.wait(streams).unwrap_or_else(PoisonError::into_inner);
        }
        let (mut streams, end) = turn.wait_timeout(streams, PATIENCE).unwrap_or_else(PoisonError::into_inner);
        streams.are_slow |= end.timed_out() && streams.waits(self.number);
        streams
    }

    /// The hash of all bytes so far, for what hashes the next ones by itself and [puts it back](Self::put_back).
    pub(crate) fn take_out(&mut self) -> Hasher {
        let mut streams = self.pairs.lock();
        loop {
            if streams.full(self.number) == 0
                && let Some(mut hasher) = streams.open.get_mut(&self.number).and_then(|stream| stream.hasher.take())
            {
                drop(streams);
                hasher.update(&self.buffer[..self.filled]);
                self.filled = 0;
                return hasher;
            }
            streams = self.hash_or_wait(streams, false);
        }
    }

    /// The stream goes on after the bytes of this hash.
    pub(crate) fn put_back(&mut self, hasher: Hasher) {
        if let Some(stream) = self.pairs.lock().open.get_mut(&self.number) {
            stream.hasher = Some(hasher);
        }
    }

    /// The digest of all bytes, and how many they were.
    pub(crate) fn finish(mut self) -> (Digest, u64) {
        self.take_out().finish()
    }
}

impl Drop for PairedHasher<'_> {
    fn drop(&mut self) {
        let mut streams = self.pairs.lock();
        streams.open.remove(&self.number);
        if streams.open.len() <= processors() {
            streams.open.values_mut().for_each(HashStream::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(seed: usize, size: usize) -> Vec<u8> {
        (0..size).map(|n| ((n + seed) * 31 % 251) as u8).collect()
    }

    #[test]
    fn streams_of_every_size_have_their_digests_however_many_meet() {
        let sizes = [0, 1, CHUNK - 1, CHUNK, CHUNK + 1, 3 * CHUNK, 40 * CHUNK + 7, 100 * CHUNK + 99, 2 * CHUNK];
        for threads in [1, 2, 3, sizes.len()] {
            let pairs = HashPairs::default();
            for group in sizes.chunks(threads) {
                std::thread::scope(|scope| {
                    for &size in group {
                        let pairs = &pairs;
                        scope.spawn(move || {
                            let bytes = bytes(size, size);
                            let mut stream = PairedHasher::new(pairs);
                            for (n, part) in bytes.chunks(100_003).enumerate() {
                                if n % 3 == 2 {
                                    let mut hasher = stream.take_out();
                                    hasher.update(part);
                                    stream.put_back(hasher);
                                } else {
                                    stream.update(part);
                                }
                            }
                            assert_eq!(stream.finish(), (Digest::of(&bytes), size as u64), "{size} of {threads}");
                        });
                    }
                });
            }
            assert!(pairs.lock().open.is_empty());
        }
    }

    /// What one stream has left is hashed by the thread of another: no thread of its own comes back to it.
    #[test]
    fn a_thread_hashes_what_another_stream_has_left() {
        let pairs = HashPairs::default();
        let (mut one, mut two) = (PairedHasher::new(&pairs), PairedHasher::new(&pairs));
        one.update(&vec![1; 3 * CHUNK]);
        assert_eq!(pairs.lock().full(one.number), 3);
        two.update(&vec![2; 2 * CHUNK]);
        assert_eq!([one.number, two.number].map(|number| pairs.lock().full(number)), [1, 0]);
        // One that is gone before its bytes were hashed leaves nothing.
        one.update(&[3; 5]);
        drop(one);
        assert_eq!(pairs.lock().open.len(), 1);
        assert_eq!(two.finish(), (Digest::of(&vec![2; 2 * CHUNK]), 2 * CHUNK as u64));
    }

    /// With more streams than processors one waits for others, once in vain; until two meet again.
    #[test]
    fn streams_that_stand_still_are_waited_for_once() {
        let pairs = HashPairs::default();
        let (mut one, mut two) = (PairedHasher::new(&pairs), PairedHasher::new(&pairs));
        let others: Vec<_> = (1..processors()).map(|_| PairedHasher::new(&pairs)).collect();
        let bytes = vec![1; (2 * BUFFERS + 1) * CHUNK];
        one.update(&bytes[..BUFFERS * CHUNK - 1]);
        assert!(!pairs.lock().are_slow);
        one.update(&bytes[..CHUNK]);
        assert!(pairs.lock().are_slow && pairs.lock().full(one.number) < BUFFERS);
        two.update(&bytes[..CHUNK]);
        assert!(!pairs.lock().are_slow);
        // Where there are processors for all, none waits.
        drop((two, others));
        one.update(&bytes[(BUFFERS + 1) * CHUNK - 1..]);
        assert!(!pairs.lock().are_slow);
        assert_eq!(one.finish(), (Digest::of(&bytes), bytes.len() as u64));
    }

    #[test]
    fn a_stream_that_is_alone_does_not_wait_for_one_that_stands_still() {
        let pairs = HashPairs::default();
        let (one, mut two) = (PairedHasher::new(&pairs), PairedHasher::new(&pairs));
        let bytes = bytes(3, 3 * BUFFERS * CHUNK);
        two.update(&bytes);
        assert_eq!(two.finish().0, Digest::of(&bytes));
        assert_eq!(one.finish(), (Digest::of(b""), 0));
    }
}
