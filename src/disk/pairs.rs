//! Streams of bytes that are hashed two by two.
//!
//! A core hashes two streams at about 1.7 times the rate of one ([`sha256_pair::update_each`]). So a thread that has gathered
//! [`CHUNK`] bytes of its stream does not hash them at once: it leaves them in [`HashPairs`], which all threads of a job share, and
//! reads on. If another stream has left bytes there too, it hashes both. A thread hashes its own bytes alone when it has no buffer
//! left to read into and no other stream has any, so that a stream never waits for one that is slower.
//!
//! Memory: [`CHUNK`] × [`BUFFERS`] for each stream.

use std::collections::{BTreeMap, VecDeque};
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::pipe::{BUFFERS, CHUNK};
use crate::oci::digest::{Digest, Hasher};

/// Where the streams of a job meet.
#[derive(Debug, Default)]
pub(crate) struct HashPairs {
    streams: Mutex<HashStreams>,
    /// A thread has hashed something.
    hashed: Condvar,
}

#[derive(Debug, Default)]
struct HashStreams {
    last: u64,
    /// Threads that wait until something was hashed: to wake none costs a system call all the same.
    waiting: usize,
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
        if streams.waiting > 0 {
            self.hashed.notify_all();
        }
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
            streams = self.hash_or_wait(streams);
        }
    }

    fn hash_or_wait<'s>(&self, streams: MutexGuard<'s, HashStreams>) -> MutexGuard<'s, HashStreams>
    where
        'p: 's,
    {
        let (mut streams, is_hashed) = self.pairs.hash(streams, self.number, true);
        if !is_hashed {
            streams.waiting += 1;
            streams = self.pairs.hashed.wait(streams).unwrap_or_else(PoisonError::into_inner);
            streams.waiting -= 1;
        }
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
            streams = self.hash_or_wait(streams);
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
        self.pairs.lock().open.remove(&self.number);
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
