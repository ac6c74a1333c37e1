//! What every long verb has: a progress line on a terminal, and a signal that stops it cleanly.

use std::io::{IsTerminal, stderr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

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
    progress: Arc<Progress>,
    signal: Arc<AtomicUsize>,
}

impl Session {
    /// Listens for signals: the first one stops the job at the next chunk, so that its temporary files are removed. A job that
    /// has not seen it after [`NOTICE`] ends as that signal ends a program, as at a second signal; the next run repairs what is left.
    pub(super) fn start() -> Self {
        let progress = Arc::new(progress());
        let signal = Arc::new(AtomicUsize::new(0));
        for number in SIGNALS {
            let stop = progress.stop_flag();
            let value = usize::try_from(number).unwrap_or(0);
            // Without a handler a signal kills, which a second run repairs: nothing to report.
            drop(signal_hook::flag::register_conditional_default(number, Arc::clone(&stop)));
            drop(signal_hook::flag::register(number, stop));
            drop(signal_hook::flag::register_usize(number, Arc::clone(&signal), value));
        }
        if let Ok(signals) = Signals::new(SIGNALS) {
            let progress = Arc::clone(&progress);
            drop(std::thread::spawn(move || end_what_waits(signals, &progress)));
        }
        Self { start: Instant::now(), progress, signal }
    }

    /// How long it has run.
    pub(super) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// The counters of this run.
    pub(super) fn progress(&self) -> &Progress {
        &self.progress
    }

    /// If a signal stopped this run: ends it as that signal would have.
    pub(super) fn die_of_signal(&self) {
        let signal = i32::try_from(self.signal.load(Ordering::Relaxed)).unwrap_or(0);
        if signal != 0 {
            drop(signal_hook::low_level::emulate_default_handler(signal));
        }
    }

    /// Draws a line with bytes and rate for as long as the guard lives, from the second second on, on a terminal only.
    /// Who has to wait for another process is told so anywhere.
    pub(super) fn draw(&self, verb: &'static str) -> Drawing {
        let done = Arc::new(AtomicBool::new(false));
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::hidden());
        let (progress, seen, drawn) = (Arc::clone(&self.progress), Arc::clone(&done), bar.clone());
        let thread = Some(std::thread::spawn(move || draw(verb, &drawn, &progress, &seen)));
        Drawing { done, bar, thread }
    }
}

/// Ends the program after a signal that no part of the job sees.
fn end_what_waits(mut signals: Signals, progress: &Progress) {
    for signal in signals.forever() {
        std::thread::sleep(NOTICE);
        if !progress.is_stopping() {
            drop(signal_hook::low_level::emulate_default_handler(signal));
        }
    }
}

/// A progress line; dropped, it is gone.
#[derive(Debug)]
pub(super) struct Drawing {
    done: Arc<AtomicBool>,
    bar: ProgressBar,
    thread: Option<JoinHandle<()>>,
}

impl Drawing {
    /// Prints something, with the line out of the way.
    pub(super) fn beside<T>(&self, print: impl FnOnce() -> T) -> T {
        self.bar.suspend(print)
    }
}

impl Drop for Drawing {
    fn drop(&mut self) {
        self.done.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            drop(thread.join());
        }
    }
}

fn draw(verb: &'static str, bar: &ProgressBar, progress: &Progress, done: &AtomicBool) {
    let start = Instant::now();
    // Most jobs end before there is anything to show.
    while let Some(left) = QUIET.checked_sub(start.elapsed()) {
        if done.load(Ordering::Relaxed) {
            return;
        }
        std::thread::park_timeout(left);
    }
    let style =
        |template: &str| ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    let bytes = style("{prefix} [{bar:32}] {msg}").progress_chars("=> ");
    let busy = style("{prefix} {spinner} {msg}");
    bar.set_prefix(verb);
    let terminal = stderr().is_terminal() && !is_quiet();
    let (mut told, mut line) = (None, ProgressLine::default());
    while !done.load(Ordering::Relaxed) {
        std::thread::park_timeout(Duration::from_millis(100));
        let elapsed = start.elapsed();
        let waiting = progress.waiting();
        if waiting.is_some() && waiting != told && !is_quiet() {
            let lock = waiting.as_ref().map(|lock| lock.display().to_string()).unwrap_or_default();
            bar.suspend(|| note(format!("waiting for another process, which holds {lock}")));
            told = waiting;
        }
        if !terminal {
            continue;
        }
        if bar.is_hidden() {
            bar.set_draw_target(ProgressDrawTarget::stderr());
        }
        match line.at(elapsed, progress.done(), progress.expected(), progress.current_step()) {
            Shown::Bytes { done, all, text } => {
                bar.set_style(bytes.clone());
                bar.set_length(all);
                bar.set_position(done);
                bar.set_message(text);
            }
            Shown::Busy(text) => {
                bar.set_style(busy.clone());
                bar.set_message(text);
                bar.tick();
            }
        }
    }
    bar.finish_and_clear();
}
