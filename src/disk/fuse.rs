//! The words of a file system of our own (FUSE): numbers are the machine's own, each message begins with its length.
//!
//! They are those of Linux' `include/uapi/linux/fuse.h`, version 7.31 (Linux 5.4).

use rustix::fs::FileType;
use rustix::io::Errno;

/// What the kernel asks for.
pub(super) const LOOKUP: u32 = 1;
pub(super) const FORGET: u32 = 2;
pub(super) const GETATTR: u32 = 3;
pub(super) const SETATTR: u32 = 4;
pub(super) const MKDIR: u32 = 9;
pub(super) const UNLINK: u32 = 10;
pub(super) const RMDIR: u32 = 11;
pub(super) const OPEN: u32 = 14;
pub(super) const READ: u32 = 15;
pub(super) const WRITE: u32 = 16;
pub(super) const RELEASE: u32 = 18;
pub(super) const INIT: u32 = 26;
pub(super) const OPENDIR: u32 = 27;
pub(super) const READDIR: u32 = 28;
pub(super) const RELEASEDIR: u32 = 29;
pub(super) const CREATE: u32 = 35;
pub(super) const DESTROY: u32 = 38;
pub(super) const BATCH_FORGET: u32 = 42;
/// Bytes before the content of a message, of one that comes and of one that goes.
const ASKED: usize = 40;
const ANSWERED: usize = 16;
/// Seconds for which the kernel need not ask again.
pub(super) const LONG: u64 = 3600;
/// "Ask for more before I have answered" (`FUSE_ASYNC_READ`), "write much at a time" (`FUSE_BIG_WRITES`), and "there is a number of
/// pages below" (`FUSE_MAX_PAGES`).
const FLAGS: u32 = 1 | 1 << 5 | 1 << 22;
/// Bytes that are read or written at once, at most.
const MOST: u32 = 1 << 20;
/// As large as any message that comes, with what is before the bytes that are written.
pub(super) const LARGEST: usize = MOST as usize + 4096;
/// "Every read and write is asked for as the program does it" (`FOPEN_DIRECT_IO`).
pub(super) const DIRECT: u32 = 1;

/// A message of the kernel.
pub(super) struct Asked<'b> {
    pub(super) operation: u32,
    pub(super) unique: u64,
    pub(super) node: u64,
    pub(super) content: &'b [u8],
}

impl<'b> Asked<'b> {
    pub(super) fn read(message: &'b [u8]) -> Option<Self> {
        let (header, content) = message.split_at_checked(ASKED)?;
        let (operation, unique, node) = (number32(header, 4)?, number(header, 8)?, number(header, 16)?);
        Some(Self { operation, unique, node, content })
    }

    /// A number of its content.
    pub(super) fn number(&self, at: usize) -> Result<u64, Errno> {
        number(self.content, at).ok_or(Errno::INVAL)
    }

    /// The same of 32 bits.
    pub(super) fn number32(&self, at: usize) -> Result<u32, Errno> {
        number32(self.content, at).ok_or(Errno::INVAL)
    }

    /// A name that begins there.
    pub(super) fn name(&self, at: usize) -> &'b [u8] {
        self.content.get(at..).and_then(|rest| rest.split(|byte| *byte == 0).next()).unwrap_or_default()
    }
}

/// What is being answered.
#[derive(Debug)]
pub(super) struct FuseAnswer(Vec<u8>);

impl FuseAnswer {
    pub(super) const fn new() -> Self {
        Self(Vec::new())
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
        self.0.resize(ANSWERED, 0);
    }

    pub(super) fn put<const N: usize>(&mut self, words: [u64; N]) {
        words.into_iter().for_each(|word| self.0.extend_from_slice(&word.to_ne_bytes()));
    }

    pub(super) fn put32<const N: usize>(&mut self, words: [u32; N]) {
        words.into_iter().for_each(|word| self.0.extend_from_slice(&word.to_ne_bytes()));
    }

    /// What can be done: version 7.31, what is read ahead, sixteen questions in the background, times in nanoseconds.
    pub(super) fn init(&mut self) {
        self.put32([7, 31, MOST, FLAGS, 16 | 12 << 16, MOST, 1, MOST / 4096]);
        // Nothing that is newer.
        self.0.resize(ANSWERED + 64, 0);
    }

    /// What `stat` says of a file or directory of root.
    pub(super) fn attributes(&mut self, node: u64, size: u64, mode: u32) {
        self.put([node, size, size.div_ceil(512), 0, 0, 0]);
        // Parts of seconds, mode, links, owner, group, device, block size, and nothing.
        self.put32([0, 0, 0, mode, 1, 0, 0, 0, 4096, 0]);
    }

    /// What a name leads to.
    pub(super) fn entry(&mut self, node: u64, size: u64, mode: u32) {
        self.put([node, 0, LONG, LONG, 0]);
        self.attributes(node, size, mode);
    }

    /// One name of a directory, unless that is more than `most` bytes in all. The next question is for what comes after the node.
    pub(super) fn name(&mut self, (node, kind): (u64, FileType), name: &[u8], most: usize) -> bool {
        let length = (24 + name.len()).next_multiple_of(8);
        let is_room = self.0.len() + length <= ANSWERED + most;
        if is_room {
            self.put([node, node]);
            self.put32([u32::try_from(name.len()).unwrap_or_default(), kind.as_raw_mode() >> 12]);
            self.0.extend_from_slice(name);
            self.0.resize(self.0.len().next_multiple_of(8), 0);
        }
        is_room
    }

    /// Room for as many bytes, and nothing before them. What was there is written over.
    pub(super) fn bytes(&mut self, size: usize) -> &mut [u8] {
        self.0.resize(ANSWERED + size, 0);
        &mut self.0[ANSWERED..]
    }

    /// All of it, to be sent.
    pub(super) fn message(&mut self, unique: u64, answer: Result<(), Errno>) -> &[u8] {
        let error = match answer {
            Ok(()) => 0,
            Err(error) => {
                self.0.resize(ANSWERED, 0);
                -error.raw_os_error()
            }
        };
        let length = u32::try_from(self.0.len()).unwrap_or_default();
        self.0[..4].copy_from_slice(&length.to_ne_bytes());
        self.0[4..8].copy_from_slice(&error.to_ne_bytes());
        self.0[8..ANSWERED].copy_from_slice(&unique.to_ne_bytes());
        &self.0
    }
}

fn number(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}
