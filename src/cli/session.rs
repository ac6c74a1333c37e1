//! What every long verb has: a progress line on a terminal, and a signal that stops it cleanly.

use std::io::{IsTerminal, stderr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use super::printer::{is_quiet, note};
use super::progress_line::{ProgressLine, Shown};
use crate::disk::progress::Progress;

/// The signals that stop a job.
const SIGNALS: [i32; 3] = [SIGHUP, SIGINT, SIGTERM];
/// How long a job may take to see that it was stopped. One that has not waits for something that may never come: a pipe that is not
/// read, a program that does not end.
const NOTICE: Duration = Duration::from_millis(900);
/// How long a job takes before its line is drawn.
const QUIET: Duration = Duration::from_secs(1);
/// Between two looks at what goes on.
const TICK: Duration = Duration::from_millis(100);
/// How many seconds to wait for a lock of Podman's.
const PATIENCE: &str = "WINDLASS_LOCK_WAIT";

/// Counters, with what the environment says of waiting.
pub(super) fn progress() -> Progress {
    let progress = Progress::new();
    let seconds = std::env::var(PATIENCE).ok().and_then(|text| text.parse().ok());
    progress.set_patience(seconds.unwrap_or(0));
    progress
}

/// One run of windlass.
#[derive(Debug)]
pub(super) struct Session {
    start: Instant,
    watched: Arc<WatchedJob>,
}

/// What a thread beside the job looks at: one thread for all of it, since a load with nothing to do takes milliseconds.
#[derive(Debug)]
struct WatchedJob {
    progress: Progress,
    /// The signal that came; 0 if none did.
    signal: Arc<AtomicUsize>,
    lines: Mutex<Vec<JobLine>>,
}

impl WatchedJob {
    fn lines(&self) -> MutexGuard<'_, Vec<JobLine>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn signal(&self) -> Option<i32> {
        i32::try_from(self.signal.load(Ordering::Relaxed)).ok().filter(|signal| *signal != 0)
    }
}

impl Session {
    /// Listens for signals: the first one stops the job at the next chunk, so that its temporary files are removed. A job that
    /// has not seen it after [`NOTICE`] ends as that signal ends a program, as at a second signal; the next run repairs what is left.
    pub(super) fn start() -> Self {
        let watched = Arc::new(WatchedJob { progress: progress(), signal: Arc::default(), lines: Mutex::default() });
        for number in SIGNALS {
            let stop = watched.progress.stop_flag();
            let value = usize::try_from(number).unwrap_or(0);
            // Without a handler a signal kills, which a second run repairs: nothing to report.
            drop(signal_hook::flag::register_conditional_default(number, Arc::clone(&stop)));
            drop(signal_hook::flag::register(number, stop));
            drop(signal_hook::flag::register_usize(number, Arc::clone(&watched.signal), value));
        }
        let seen = Arc::clone(&watched);
        drop(std::thread::spawn(move || watch(&seen)));
        Self { start: Instant::now(), watched }
    }

    /// How long it has run.
    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// The counters of this run.
    pub(super) fn progress(&self) -> &Progress {
        &self.watched.progress
    }

    /// If a signal stopped this run: ends it as that signal would have.
    pub(super) fn die_of_signal(&self) {
        if let Some(signal) = self.watched.signal() {
            drop(signal_hook::low_level::emulate_default_handler(signal));
        }
    }

    /// Draws a line with bytes and rate for as long as the guard lives, from the second second on, on a terminal only.
    /// Who has to wait for another process is told so anywhere.
    pub(super) fn draw(&self, verb: &'static str) -> Drawing {
        let mut lines = self.watched.lines();
        let number = lines.iter().map(|line| line.number + 1).max().unwrap_or(0);
        lines.push(JobLine {
            number,
            verb,
            start: Instant::now(),
            told: None,
            line: ProgressLine::default(),
            bar: None,
        });
        Drawing { number, watched: Arc::clone(&self.watched) }
    }
}

/// Draws the lines of a job, and ends the program after a signal that no part of the job sees.
fn watch(job: &WatchedJob) {
    let mut since = None;
    loop {
        std::thread::sleep(TICK);
        if let Some(signal) = job.signal()
            && since.get_or_insert_with(Instant::now).elapsed() >= NOTICE
            && !job.progress.is_stopping()
        {
            drop(signal_hook::low_level::emulate_default_handler(signal));
        }
        // Who prints beside a line may wait for a pipe that is not read: a signal must end that too.
        let Ok(mut lines) = job.lines.try_lock() else { continue };
        lines.iter_mut().filter(|line| line.start.elapsed() >= QUIET).for_each(|line| line.draw(&job.progress));
    }
}

/// The line of a part of a job. Most parts end before there is anything to show: until then it costs nothing.
#[derive(Debug)]
struct JobLine {
    number: usize,
    verb: &'static str,
    start: Instant,
    /// The lock that was told of last.
    told: Option<PathBuf>,
    line: ProgressLine,
    /// On a terminal, once it is drawn.
    bar: Option<ProgressBar>,
}

impl JobLine {
    fn draw(&mut self, progress: &Progress) {
        let waiting = progress.waiting();
        if waiting.is_some() && waiting != self.told && !is_quiet() {
            let lock = waiting.as_ref().map(|lock| lock.display().to_string()).unwrap_or_default();
            self.beside(|| note(format!("waiting for another process, which holds {lock}")));
            self.told = waiting;
        }
        if !stderr().is_terminal() || is_quiet() {
            return;
        }
        let style =
            |template: &str| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = self.bar.get_or_insert_with(|| {
            let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
            bar.with_prefix(self.verb)
        });
        match self.line.at(self.start.elapsed(), progress.done(), progress.expected(), progress.current_step()) {
            Shown::Bytes { done, all, text } => {
                bar.set_style(style("{prefix} [{bar:32}] {msg}").progress_chars("=> "));
                bar.set_length(all);
                bar.set_position(done);
                bar.set_message(text);
            }
            Shown::Busy(text) => {
                bar.set_style(style("{prefix} {spinner} {msg}"));
                bar.set_message(text);
                bar.tick();
            }
        }
    }

    /// Prints something, with the line out of the way.
    fn beside<T>(&self, print: impl FnOnce() -> T) -> T {
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }
}

/// A progress line; dropped, it is gone.
#[derive(Debug)]
pub(super) struct Drawing {
    number: usize,
    watched: Arc<WatchedJob>,
}

impl Drawing {
    /// Prints something, with the line out of the way.
    pub(super) fn beside<T>(&self, print: impl FnOnce() -> T) -> T {
        let lines = self.watched.lines();
        match lines.iter().find(|line| line.number == self.number) {
            Some(line) => line.beside(print),
            None => print(),
        }
    }
}

impl Drop for Drawing {
    fn drop(&mut self) {
        let mut lines = self.watched.lines();
        let ended = lines.extract_if(.., |line| line.number == self.number);
        ended.filter_map(|line| line.bar).for_each(|bar| bar.finish_and_clear());
    }
}
