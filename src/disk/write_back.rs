//! The disk writes what there is while more is being made.
//!
//! What is written stays in memory first: where that is large nothing goes to the disk for half a minute, and all of it waits for the sync
//! at the end, when no processor has anything to do. So a thread syncs meanwhile, again and again. What is done here is only earlier: the
//! sync at the end stays, and says what has failed.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How often the thread looks.
const PAUSE: Duration = Duration::from_millis(50);
/// Bytes that are worth a sync: each has the disk empty its own memory too.
const WORTH: u64 = 32 << 20;

/// What was written when the disk was told to write last.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct SyncedBytes(u64);

impl SyncedBytes {
    /// So many there were at the beginning.
    pub(crate) const fn new(written: u64) -> Self {
        Self(written)
    }

    /// Whether there are so many more that it is worth a sync, which comes next.
    pub(crate) const fn is_worth(&mut self, written: u64) -> bool {
        let is_worth = written.saturating_sub(self.0) >= WORTH;
        if is_worth {
            self.0 = written;
        }
        is_worth
    }
}

/// Does some work, and calls `step` meanwhile again and again, in a thread of its own.
pub(crate) fn writing_back<T>(mut step: impl FnMut() + Send, work: impl FnOnce() -> T) -> T {
    std::thread::scope(|scope| {
        let (end, ended) = channel::<()>();
        scope.spawn(move || {
            while ended.recv_timeout(PAUSE) == Err(RecvTimeoutError::Timeout) {
                step();
            }
        });
        let done = work();
        drop(end);
        done
    })
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn steps_are_taken_while_the_work_is_done_and_no_longer() {
        let (told, steps) = sync_channel(0);
        // The work is done when there was a second step.
        let done = writing_back(move || told.send(()).unwrap_or_default(), || (steps.recv(), steps.recv()));
        assert_eq!(done, (Ok(()), Ok(())));
        assert!(steps.try_recv().is_err());
    }

    #[test]
    fn few_bytes_are_worth_no_sync() {
        let mut synced = SyncedBytes::new(7);
        let all = [7, WORTH + 6, WORTH + 7, WORTH + 8, 2 * WORTH + 7].map(|written| synced.is_worth(written));
        assert_eq!(all, [false, false, true, false, true]);
    }
}
