//! What a long job tells the outside while it runs, and how the outside stops it.
//!
//! The library counts; its caller decides whether to draw a bar, print a sentence, or stay quiet.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use crate::disk::bounded::{self, Cap};
use crate::disk::pairs::HashPairs;

/// Counters shared by all threads of one job. All in bytes.
#[derive(Debug, Default)]
pub struct Progress {
    expected: AtomicU64,
    read: AtomicU64,
    written: AtomicU64,
    cloned: AtomicU64,
    linked: AtomicU64,
    network: AtomicU64,
    kept: AtomicU64,
    waiting: Mutex<Option<PathBuf>>,
    /// What is at work without counting bytes, the longest first.
    steps: Mutex<Vec<(u64, String)>>,
    last_step: AtomicU64,
    patience: AtomicU64,
    /// Layers that are being read, each by a thread.
    streams: AtomicUsize,
    /// Where they are hashed.
    pairs: HashPairs,
    stop: Arc<AtomicBool>,
    /// Whether a part of the job has seen that it is to stop.
    noticed: AtomicBool,
}

/// How many processors this process may use.
pub(crate) fn processors() -> usize {
    static PROCESSORS: OnceLock<usize> = OnceLock::new();
    *PROCESSORS.get_or_init(|| std::thread::available_parallelism().map_or(1, usize::from))
}

/// See [`Progress::streaming`].
#[derive(Debug)]
pub(crate) struct StreamGuard<'p>(&'p Progress);

impl Drop for StreamGuard<'_> {
    fn drop(&mut self) {
        self.0.streams.fetch_sub(1, Relaxed);
    }
}

impl Progress {
    /// All zero.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Says that this thread reads a layer, until the guard goes.
    pub(crate) fn streaming(&self) -> StreamGuard<'_> {
        self.streams.fetch_add(1, Relaxed);
        StreamGuard(self)
    }

    /// Whether there are processors that no layer keeps busy: then a thread more saves time, and otherwise it only costs.
    pub(crate) fn has_idle_processors(&self) -> bool {
        self.streams.load(Relaxed) < processors()
    }

    /// Where the threads of the job hash what they read.
    pub(crate) const fn pairs(&self) -> &HashPairs {
        &self.pairs
    }

    /// Announces bytes that will be worked on.
    pub fn expect(&self, bytes: u64) {
        self.expected.fetch_add(bytes, Relaxed);
    }

    /// Counts file data read.
    pub(crate) fn count_read(&self, bytes: u64) {
        self.read.fetch_add(bytes, Relaxed);
    }

    /// Counts bytes written.
    pub(crate) fn count_written(&self, bytes: u64) {
        self.written.fetch_add(bytes, Relaxed);
    }

    /// Counts bytes that two files now share (reflink): not written, and read only where they are compared.
    pub(crate) fn count_cloned(&self, bytes: u64) {
        self.cloned.fetch_add(bytes, Relaxed);
    }

    /// Counts bytes of files that got another name (hard link): neither read nor written.
    pub(crate) fn count_linked(&self, bytes: u64) {
        self.linked.fetch_add(bytes, Relaxed);
    }

    /// Counts bytes received from a registry, or sent to one.
    pub(crate) fn count_network(&self, bytes: u64) {
        self.network.fetch_add(bytes, Relaxed);
    }

    /// Counts bytes that need not be received: they are there from a run before.
    pub(crate) fn count_kept(&self, bytes: u64) {
        self.kept.fetch_add(bytes, Relaxed);
    }

    /// Says that something is at work that counts no bytes (another program, the disk) for as long as the guard lives: with
    /// what a sentence begins, `Podman takes localhost/app:1`.
    pub(crate) fn step(&self, what: impl Into<String>) -> Step<'_> {
        let number = self.last_step.fetch_add(1, Relaxed);
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).push((number, what.into()));
        Step { progress: self, number }
    }

    /// What is at work without counting bytes, the first that began: a program is a part of what it was started for.
    pub(crate) fn current_step(&self) -> Option<String> {
        self.steps.lock().unwrap_or_else(PoisonError::into_inner).first().map(|(_, what)| what.clone())
    }

    /// Says that another process holds this lock, and that the job waits for it.
    pub(crate) fn wait_for(&self, lock: &Path) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = Some(lock.to_owned());
    }

    /// The wait is over.
    pub(crate) fn go_on(&self) {
        *self.waiting.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The lock that the job waits for.
    pub(crate) fn waiting(&self) -> Option<PathBuf> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tries to take a lock until it works or the job is told to stop, and says meanwhile what is being waited for.
    ///
    /// # Errors
    /// What `attempt` failed with, or that the job is to stop.
    pub(crate) fn wait_until(&self, lock: &Path, attempt: impl FnMut() -> io::Result<bool>) -> io::Result<()> {
        self.wait(lock, None, || None, attempt)
    }

    /// The same of a lock that others may hold who are no windlass: not longer than [`patience`](Self::patience). `holder` is
    /// asked for the process that has it.
    ///
    /// # Errors
    /// As above, or that the lock is still held, and by which process.
    pub(crate) fn wait_patiently(
        &self,
        lock: &Path,
        holder: impl Fn() -> Option<i32>,
        attempt: impl FnMut() -> io::Result<bool>,
    ) -> io::Result<()> {
        self.wait(lock, Some(self.patience()), holder, attempt)
    }

    fn wait(
        &self,
        lock: &Path,
        patience: Option<Duration>,
        holder: impl Fn() -> Option<i32>,
        mut attempt: impl FnMut() -> io::Result<bool>,
    ) -> io::Result<()> {
        /// Between two tries.
        const PAUSE: Duration = Duration::from_millis(10);
        let mut waited = Duration::ZERO;
        let told = |waited: Duration| waited > Duration::ZERO;
        let result = loop {
            match attempt() {
                Ok(true) => break Ok(()),
                Err(error) => break Err(error),
                Ok(false) => {}
            }
            if !told(waited) {
                self.wait_for(lock);
            }
            if let Err(error) = self.check() {
                break Err(error);
            }
            if patience.is_some_and(|patience| waited >= patience) {
                break Err(held(holder(), waited));
            }
            std::thread::sleep(PAUSE);
            waited += PAUSE;
        };
        if told(waited) {
            self.go_on();
        }
        result
    }

    /// How long a lock is waited for that others may hold who are no windlass: ten minutes, unless it was set.
    pub(crate) fn patience(&self) -> Duration {
        match self.patience.load(Relaxed) {
            0 => Duration::from_secs(600),
            seconds => Duration::from_secs(seconds),
        }
    }

    /// Sets [`patience`](Self::patience), in seconds; 0 is the usual one.
    pub(crate) fn set_patience(&self, seconds: u64) {
        self.patience.store(seconds, Relaxed);
    }

    /// How many bytes the job will work on, as far as is known.
    pub(crate) fn expected(&self) -> u64 {
        self.expected.load(Relaxed)
    }

    /// File data read so far.
    pub(crate) fn read(&self) -> u64 {
        self.read.load(Relaxed)
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.written.load(Relaxed)
    }

    /// Bytes cloned so far.
    pub(crate) fn cloned(&self) -> u64 {
        self.cloned.load(Relaxed)
    }

    /// Bytes linked so far.
    pub(crate) fn linked(&self) -> u64 {
        self.linked.load(Relaxed)
    }

    /// Bytes received and sent so far.
    pub fn network(&self) -> u64 {
        self.network.load(Relaxed)
    }

    /// Bytes that were there from a run before.
    pub(crate) fn kept(&self) -> u64 {
        self.kept.load(Relaxed)
    }

    /// Bytes worked on so far, to compare with [`expected`](Self::expected).
    pub fn done(&self) -> u64 {
        self.read().max(self.written() + self.cloned() + self.linked()).max(self.network() + self.kept())
    }

    /// Asks every thread of the job to stop at the next chunk.
    pub fn stop(&self) {
        self.stop.store(true, Relaxed);
    }

    /// The flag behind [`stop`](Self::stop), for a signal handler.
    #[must_use]
    pub fn stop_flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// Whether a part of the job has seen that it is to stop, and so is on its way to the end. If not, all of it waits for something.
    #[must_use]
    pub(crate) fn is_stopping(&self) -> bool {
        self.noticed.load(Relaxed)
    }

    /// `Err` of kind [`io::ErrorKind::Interrupted`] once [`stop`](Self::stop) was called.
    ///
    /// # Errors
    /// See above.
    pub(crate) fn check(&self) -> io::Result<()> {
        if self.stop.load(Relaxed) {
            self.noticed.store(true, Relaxed);
            Err(io::Error::new(io::ErrorKind::Interrupted, "stopped by a signal; nothing has changed"))
        } else {
            Ok(())
        }
    }
}

/// A part of a job that counts no bytes; see [`Progress::step`].
#[derive(Debug)]
#[must_use]
pub(crate) struct Step<'a> {
    progress: &'a Progress,
    number: u64,
}

impl Drop for Step<'_> {
    fn drop(&mut self) {
        let mut steps = self.progress.steps.lock().unwrap_or_else(PoisonError::into_inner);
        steps.retain(|(number, _)| *number != self.number);
    }
}

/// Says which process does not let go of a lock.
fn held(holder: Option<i32>, waited: Duration) -> io::Error {
    let who = match holder {
        Some(pid) => {
            let name = bounded::text(Path::new(&format!("/proc/{pid}/comm")), Cap::List).unwrap_or_default();
            let name: String = name.trim_end().chars().filter(|c| !c.is_control()).collect();
            format!("process {pid} ({name}) holds it; end that process, or wait until it is done, and try again")
        }
        None => "a process holds it that cannot be seen from here; /proc/locks has all locks".to_owned(),
    };
    let waited = waited.as_secs();
    io::Error::new(io::ErrorKind::TimedOut, format!("waited {waited} seconds, and {who}"))
}
