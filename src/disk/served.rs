//! Files that lie on no disk: their bytes are made when another program reads them.
//!
//! A file system of our own (FUSE) that no directory shows: it is mounted nowhere, and reached through a descriptor of this
//! process, `/proc/PID/fd/N/NAME`. However this process ends, the descriptor goes, and with it all of it: nothing is left to be
//! cleaned up. A file is made from its beginning to its end, as what reads it takes it, so that nothing is held in memory; who
//! reads it in another order gets the right bytes too, made once more.
//!
//! The kernel reads ahead, as of any file, so that the next bytes are made while the program works on the last ones, and asks for much at
//! a time: each question costs as much as to copy some ten kilobytes. Large files are read into the answer, and copied no further.
//!
//! Needs root, and `/dev/fuse`. The messages are those of Linux' `include/uapi/linux/fuse.h`, version 7.31 (Linux 5.4): numbers
//! are the machine's own, each message begins with its length.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, PipeReader, Write};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::thread::Scope;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};
use rustix::process::geteuid;

use super::pieces::{PieceReader, PieceSender, pieces};
use super::progress::Progress;

/// What the kernel asks for.
const LOOKUP: u32 = 1;
const FORGET: u32 = 2;
const GETATTR: u32 = 3;
const OPEN: u32 = 14;
const READ: u32 = 15;
const RELEASE: u32 = 18;
const INIT: u32 = 26;
const DESTROY: u32 = 38;
const BATCH_FORGET: u32 = 42;
/// Bytes before the content of a message, of one that comes and of one that goes.
const ASKED: usize = 40;
const ANSWERED: usize = 16;
/// The directory; files come after it.
const ROOT: u64 = 1;
/// Seconds for which the kernel need not ask again.
const LONG: u64 = 3600;
/// "Ask for more before I have answered" (`FUSE_ASYNC_READ`), and "there is a number of pages below" (`FUSE_MAX_PAGES`).
const FLAGS: u32 = 1 | 1 << 22;
/// Bytes that are asked for at once, at most.
const MOST: u32 = 1 << 20;
/// Larger than any message that comes: nothing is written to these files.
const LARGEST: usize = 64 << 10;

/// A file that is made while it is read.
pub(crate) struct ServedFile<'a> {
    pub(crate) name: String,
    /// How many bytes it has. What its maker gives beyond that is passed over.
    pub(crate) size: u64,
    /// Makes them, until no more are wanted.
    pub(crate) make: Box<dyn Fn(PieceSender) + Sync + 'a>,
}

/// A place for such files, without any so far.
#[derive(Debug)]
pub struct ServedPlace {
    fuse: File,
    mount: OwnedFd,
}

impl ServedPlace {
    /// Makes one.
    ///
    /// # Errors
    /// If this user may not, or the kernel cannot.
    pub(crate) fn new() -> io::Result<Self> {
        // In a container of a user the programs that are to read it may be in another one.
        if !geteuid().is_root() {
            return Err(ErrorKind::PermissionDenied.into());
        }
        let fuse = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
        let place = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let number = fuse.as_raw_fd().to_string();
        let settings =
            [("source", "windlass"), ("fd", &number), ("rootmode", "40000"), ("user_id", "0"), ("group_id", "0")];
        settings.into_iter().try_for_each(|(key, value)| fsconfig_set_string(&place, key, value))?;
        fsconfig_create(&place)?;
        let attributes =
            MountAttrFlags::MOUNT_ATTR_RDONLY | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
        let mount = fsmount(&place, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        Ok(Self { fuse, mount })
    }

    /// Whether there can be one: tried out once.
    #[must_use]
    pub fn is_possible() -> bool {
        static POSSIBLE: OnceLock<bool> = OnceLock::new();
        *POSSIBLE.get_or_init(|| Self::new().is_ok())
    }

    /// Where another program of this user finds a file, while it is [served](Self::serve).
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let (process, mount) = (std::process::id(), self.mount.as_raw_fd());
        PathBuf::from(format!("/proc/{process}/fd/{mount}/{name}"))
    }

    /// Serves these files for as long as `work` goes on.
    ///
    /// # Errors
    /// If there is no pipe to be had; then the work was not begun.
    pub(crate) fn serve<T>(
        self,
        files: &[ServedFile<'_>],
        progress: &Progress,
        work: impl FnOnce() -> T,
    ) -> io::Result<T> {
        let (stopped, stop) = io::pipe()?;
        let Self { fuse, mount } = self;
        Ok(std::thread::scope(|scope| {
            let server = Server { fuse, files, progress, open: BTreeMap::new(), last: 0, answer: Vec::new() };
            scope.spawn(move || server.run(scope, &stopped));
            let done = work();
            // Whatever still has a file open gets an error from now on.
            drop((stop, mount));
            done
        }))
    }
}

/// A file that a program has open.
struct OpenFile {
    /// Which one of the files.
    file: usize,
    from: PieceReader,
}

struct Server<'s, 'f> {
    fuse: File,
    files: &'s [ServedFile<'f>],
    progress: &'s Progress,
    open: BTreeMap<u64, OpenFile>,
    /// The handle that was given last.
    last: u64,
    /// What is being answered, after room for its header.
    answer: Vec<u8>,
}

/// A message of the kernel.
struct Asked<'b> {
    operation: u32,
    unique: u64,
    node: u64,
    content: &'b [u8],
}

impl<'b> Asked<'b> {
    fn read(message: &'b [u8]) -> Option<Self> {
        let (header, content) = message.split_at_checked(ASKED)?;
        let (operation, unique, node) = (number32(header, 4)?, number(header, 8)?, number(header, 16)?);
        Some(Self { operation, unique, node, content })
    }
}

impl<'s, 'f> Server<'s, 'f> {
    /// Answers until the place is gone, or what comes from `stopped` ends.
    fn run(mut self, scope: &'s Scope<'s, '_>, stopped: &PipeReader) {
        let mut message = vec![0; LARGEST];
        loop {
            let mut watched = [PollFd::new(&self.fuse, PollFlags::IN), PollFd::new(stopped, PollFlags::IN)];
            match poll(&mut watched, None) {
                Err(Errno::INTR) => continue,
                Ok(_) if watched[1].revents().is_empty() => {}
                _ => return,
            }
            match rustix::io::read(&self.fuse, &mut message) {
                Ok(read) => {
                    let Some(asked) = Asked::read(&message[..read]) else { return };
                    if !matches!(asked.operation, FORGET | BATCH_FORGET) {
                        let (unique, answer) = (asked.unique, self.answer(scope, &asked));
                        self.send(unique, answer);
                    }
                }
                // One that was taken back before it was read.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
                Err(_) => return,
            }
        }
    }

    /// One that has ended before its answer wants none: that is no error.
    fn send(&mut self, unique: u64, answer: Result<(), Errno>) {
        let error = match answer {
            Ok(()) => 0,
            Err(error) => {
                self.answer.truncate(ANSWERED);
                -error.raw_os_error()
            }
        };
        let length = u32::try_from(self.answer.len()).unwrap_or_default();
        self.answer[..4].copy_from_slice(&length.to_ne_bytes());
        self.answer[4..8].copy_from_slice(&error.to_ne_bytes());
        self.answer[8..ANSWERED].copy_from_slice(&unique.to_ne_bytes());
        drop(self.fuse.write(&self.answer));
    }

    /// Makes an answer.
    fn answer(&mut self, scope: &'s Scope<'s, '_>, asked: &Asked<'_>) -> Result<(), Errno> {
        if asked.operation == READ {
            return self.read(scope, asked.content);
        }
        self.answer.clear();
        self.answer.resize(ANSWERED, 0);
        match asked.operation {
            INIT => {
                // Version 7.31, what is read ahead, and what can be done.
                [7, 31, MOST, FLAGS].into_iter().for_each(|word| put32(&mut self.answer, word));
                // Sixteen in the background; no writes, whose least is 4096 bytes; times in nanoseconds; pages of a message.
                [16 | 12 << 16, 4096, 1, MOST / 4096].into_iter().for_each(|word| put32(&mut self.answer, word));
                // Nothing that is newer.
                self.answer.resize(ANSWERED + 64, 0);
            }
            LOOKUP => {
                let name = asked.content.split(|byte| *byte == 0).next().unwrap_or_default();
                let at = self.files.iter().position(|file| file.name.as_bytes() == name).ok_or(Errno::NOENT)?;
                let node = ROOT + 1 + at as u64;
                [node, 0, LONG, LONG, 0].into_iter().for_each(|word| put(&mut self.answer, word));
                self.attributes(node)?;
            }
            GETATTR => {
                [LONG, 0].into_iter().for_each(|word| put(&mut self.answer, word));
                self.attributes(asked.node)?;
            }
            OPEN => {
                let file = self.file(asked.node)?;
                let from = self.begin(scope, file);
                self.last += 1;
                self.open.insert(self.last, OpenFile { file, from });
                [self.last, 0].into_iter().for_each(|word| put(&mut self.answer, word));
            }
            RELEASE => drop(number(asked.content, 0).and_then(|handle| self.open.remove(&handle))),
            DESTROY => {}
            _ => return Err(Errno::NOSYS),
        }
        Ok(())
    }

    /// Begins to make a file.
    fn begin(&self, scope: &'s Scope<'s, '_>, file: usize) -> PieceReader {
        let (file, (to, from)) = (&self.files[file], pieces());
        scope.spawn(move || (file.make)(to));
        from
    }

    fn read(&mut self, scope: &'s Scope<'s, '_>, asked: &[u8]) -> Result<(), Errno> {
        // If it fails, nothing but this is sent.
        self.answer.resize(self.answer.len().max(ANSWERED), 0);
        let [handle, from] = [0, 8].map(|at| number(asked, at));
        let (handle, from) = handle.zip(from).ok_or(Errno::INVAL)?;
        let size = number32(asked, 16).ok_or(Errno::INVAL)?;
        let OpenFile { file, from: open } = self.open.get(&handle).ok_or(Errno::BADF)?;
        let end = self.files[*file].size;
        let from = from.min(end);
        let again = if open.has(from) { None } else { Some(self.begin(scope, *file)) };
        // What was in the buffer is written over.
        let wanted = usize::try_from(u64::from(size).min(end - from)).map_err(|_| Errno::INVAL)?;
        self.answer.resize(ANSWERED + wanted, 0);
        let open = self.open.get_mut(&handle).ok_or(Errno::BADF)?;
        if let Some(again) = again {
            open.from = again;
        }
        // An end that comes early is an error of what makes it: who reads it must not take it for the end of the file.
        open.from.read_at(from, &mut self.answer[ANSWERED..], self.progress).map_err(|_| Errno::IO)
    }

    fn file(&self, node: u64) -> Result<usize, Errno> {
        let at = node.checked_sub(ROOT + 1).and_then(|at| usize::try_from(at).ok());
        at.filter(|at| *at < self.files.len()).ok_or(Errno::NOENT)
    }

    /// What `stat` says: a file of root that may be read, or the directory.
    fn attributes(&mut self, node: u64) -> Result<(), Errno> {
        let (size, mode) = if node == ROOT { (0, 0o040_500) } else { (self.files[self.file(node)?].size, 0o100_400) };
        [node, size, size.div_ceil(512), 0, 0, 0].into_iter().for_each(|word| put(&mut self.answer, word));
        // Parts of seconds, mode, links, owner, group, device, block size, and nothing.
        [0, 0, 0, mode, 1, 0, 0, 0, 4096, 0].into_iter().for_each(|word| put32(&mut self.answer, word));
        Ok(())
    }
}

fn put(out: &mut Vec<u8>, word: u64) {
    out.extend_from_slice(&word.to_ne_bytes());
}

fn put32(out: &mut Vec<u8>, word: u32) {
    out.extend_from_slice(&word.to_ne_bytes());
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    fn bytes(seed: u32, size: u32) -> Vec<u8> {
        (0..size).map(|n| (n.wrapping_mul(seed) >> 3) as u8).collect()
    }

    #[test]
    fn what_is_served_is_read_in_any_order_and_gone_afterwards() {
        if !ServedPlace::is_possible() {
            return;
        }
        let (one, two) = (bytes(77, 3_000_001), bytes(99, 70_000));
        let serve = |name: &str, bytes: &[u8]| {
            let bytes = bytes.to_vec();
            let make = Box::new(move |mut to: PieceSender| {
                let mut large = tempfile::tempfile().unwrap();
                large.write_all(&bytes[..bytes.len() / 2]).unwrap();
                let (first, rest) = bytes.split_at(bytes.len() / 2);
                let given = to
                    .file(&large, first.len() as u64)
                    .and_then(|()| rest.chunks(999).try_for_each(|part| to.bytes(part)));
                drop(given.and_then(|()| to.finish()));
            });
            ServedFile { name: name.to_owned(), size: 0, make }
        };
        let mut files = [serve("one", &one), serve("two", &two), serve("short", &two)];
        [files[0].size, files[1].size, files[2].size] = [one.len() as u64, two.len() as u64, two.len() as u64 + 1];
        let place = ServedPlace::new().unwrap();
        let path = |name: &str| place.path(name);
        let [first, second, short, other] = ["one", "two", "short", "three"].map(path);
        let left = first.clone();
        place
            .serve(&files, &Progress::new(), move || {
                assert!(std::fs::read(&first).unwrap() == one && std::fs::read(&second).unwrap() == two);
                assert_eq!(std::fs::metadata(&first).unwrap().len(), one.len() as u64);
                let file = File::open(&first).unwrap();
                let twice = File::open(&first).unwrap();
                for (at, size) in [(1000, 5000), (2_000_000, 500_000), (7, 100), (0, 1), (2_999_000, 1001)] {
                    for file in [&file, &twice] {
                        let mut found = vec![0; size];
                        file.read_exact_at(&mut found, at).unwrap();
                        assert!(found == one[at as usize..][..size], "{at}");
                    }
                }
                assert_eq!(file.read_at(&mut [0; 10], one.len() as u64).unwrap(), 0);
                assert_eq!(file.read_at(&mut [0; 10], 1 << 40).unwrap(), 0);
                // Less than was promised is an error, and not the end.
                assert_eq!(std::fs::read(&short).unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
                assert_eq!(File::open(&other).unwrap_err().kind(), ErrorKind::NotFound);
                assert!(OpenOptions::new().write(true).open(&first).is_err());
            })
            .unwrap();
        assert!(File::open(left).is_err());
    }
}
