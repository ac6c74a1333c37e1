//! The progress line: what it shows at a moment, so that it never stands still while work goes on.
//!
//! As long as bytes are counted it is a bar with bytes, and the rate of the last seconds. Where none are counted for a second (Nix
//! adds a file, Podman unpacks, the disk writes what it holds back) it says what is at work, and for how long.

use std::collections::VecDeque;
use std::time::Duration;

use super::printer::size;

/// How long no byte may be counted before the line says what is at work instead.
const STILL: Duration = Duration::from_secs(1);
/// The rate is that of so long.
const WINDOW: Duration = Duration::from_secs(5);

/// What a line shows.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown {
    /// A bar of so many bytes of so many, and the text behind it.
    Bytes { done: u64, all: u64, text: String },
    /// What is at work, and for how long.
    Busy(String),
}

/// What is remembered between two looks.
#[derive(Debug, Default)]
pub(super) struct ProgressLine {
    /// When how many bytes were done, within the window.
    samples: VecDeque<(Duration, u64)>,
    /// When the last byte was counted.
    moved: Duration,
    /// What was at work when none were counted any more, and since when.
    busy: Option<(Option<String>, Duration)>,
}

impl ProgressLine {
    /// What to show at this time since the start.
    pub(super) fn at(&mut self, now: Duration, done: u64, all: u64, step: Option<String>) -> Shown {
        if self.samples.back().is_none_or(|(_, before)| *before != done) {
            // A rate of before a pause says nothing of after it.
            if self.busy.take().is_some() {
                self.samples.clear();
            }
            self.moved = now;
        }
        self.samples.push_back((now, done));
        while self.samples.front().is_some_and(|(then, _)| *then + WINDOW < now) {
            self.samples.pop_front();
        }
        let still = now.saturating_sub(self.moved);
        if still >= STILL {
            let since = match &self.busy {
                Some((before, since)) if *before == step => *since,
                Some(_) => now,
                None => self.moved,
            };
            self.busy = Some((step.clone(), since));
            let what = step.unwrap_or_else(|| format!("{} done, finishing", size(done)));
            return Shown::Busy(format!("{what}, {} s", now.saturating_sub(since).as_secs()));
        }
        let (then, before) = self.samples.front().copied().unwrap_or((now, done));
        // The first moments are those of the whole.
        let (then, before) = if now == then { (Duration::ZERO, 0) } else { (then, before) };
        let millis = now.saturating_sub(then).as_millis().max(1);
        let rate = u128::from(done.saturating_sub(before)) * 1000 / millis;
        let rate = size(u64::try_from(rate).unwrap_or(u64::MAX));
        let all = all.max(done);
        Shown::Bytes { done, all, text: format!("{} of {}, {rate}/s", size(done), size(all)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(line: &mut ProgressLine, millis: u64, done: u64, step: Option<&str>) -> String {
        match line.at(Duration::from_millis(millis), done, 10_000_000, step.map(str::to_owned)) {
            Shown::Bytes { text, .. } | Shown::Busy(text) => text,
        }
    }

    #[test]
    fn bytes_have_the_rate_of_the_last_seconds() {
        let mut line = ProgressLine::default();
        assert_eq!(shown(&mut line, 1000, 1_000_000, None), "1.0 MB of 10.0 MB, 1.0 MB/s");
        assert_eq!(shown(&mut line, 2000, 4_000_000, None), "4.0 MB of 10.0 MB, 3.0 MB/s");
        for second in 3..20 {
            shown(&mut line, second * 1000, 4_000_000 + second, None);
        }
        assert_eq!(shown(&mut line, 20_000, 4_000_020, None), "4.0 MB of 10.0 MB, 1 B/s");
    }

    #[test]
    fn where_no_byte_is_counted_it_says_what_is_at_work_and_for_how_long() {
        let mut line = ProgressLine::default();
        shown(&mut line, 1000, 10_000_000, None);
        let nix = Some("Nix adds m.gguf");
        assert_eq!(shown(&mut line, 1900, 10_000_000, nix), "10.0 MB of 10.0 MB, 0 B/s");
        assert_eq!(shown(&mut line, 2000, 10_000_000, nix), "Nix adds m.gguf, 1 s");
        assert_eq!(shown(&mut line, 8500, 10_000_000, nix), "Nix adds m.gguf, 7 s");
        // What comes next has a time of its own, and bytes their own rate.
        let podman = Some("Podman unpacks app");
        assert_eq!(shown(&mut line, 9000, 10_000_000, podman), "Podman unpacks app, 0 s");
        assert_eq!(shown(&mut line, 11_000, 10_000_000, podman), "Podman unpacks app, 2 s");
        assert_eq!(shown(&mut line, 12_000, 10_000_000, None), "10.0 MB done, finishing, 0 s");
        shown(&mut line, 13_000, 11_000_000, None);
        assert_eq!(shown(&mut line, 14_000, 13_000_000, None), "13.0 MB of 13.0 MB, 2.0 MB/s");
    }

    #[test]
    fn what_has_not_begun_does_not_stand_at_nothing() {
        let mut line = ProgressLine::default();
        shown(&mut line, 1000, 0, Some("Podman unpacks app"));
        assert_eq!(shown(&mut line, 2500, 0, Some("Podman unpacks app")), "Podman unpacks app, 1 s");
    }
}
