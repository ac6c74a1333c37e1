//! The answers to what the kernel asks of a [place](super::served) where files are served.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{PipeReader, Write};
use std::os::unix::fs::FileExt;
use std::thread::Scope;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::fuse::{
    Asked, BATCH_FORGET, CREATE, DESTROY, DIRECT, FORGET, FuseAnswer, GETATTR, INIT, LARGEST, LONG, LOOKUP, MKDIR,
    OPEN, OPENDIR, READ, READDIR, RELEASE, RELEASEDIR, RMDIR, SETATTR, UNLINK, WRITE,
};
use super::pieces::{PieceReader, pieces};
use super::progress::Progress;
use super::scratch::{SCRATCH, Scratch, ScratchContent, ScratchFile, errno, is_same};
use super::served::{COPIES, ServedFile};
use crate::oci::digest::Hasher;

/// The directory; files come after it.
const ROOT: u64 = 1;
/// "The size is to be changed" (`FATTR_SIZE`).
const SIZE: u32 = 1 << 3;

/// A file that a program has open.
enum OpenFile {
    /// One that is made, by which one it is.
    Served(usize, PieceReader),
    /// A copy of one.
    Copy(usize, PieceReader, Hasher),
    /// A file without a name.
    Own(File),
    /// Something that is written.
    Written,
}

pub(super) struct Server<'s, 'f> {
    fuse: File,
    files: &'s [ServedFile<'f>],
    progress: &'s Progress,
    scratch: Option<Scratch>,
    open: BTreeMap<u64, OpenFile>,
    /// The handle that was given last.
    last: u64,
    answer: FuseAnswer,
}

impl<'s, 'f> Server<'s, 'f> {
    /// One for these files.
    pub(super) const fn new(
        fuse: File,
        files: &'s [ServedFile<'f>],
        scratch: Option<Scratch>,
        progress: &'s Progress,
    ) -> Self {
        Self { fuse, files, progress, scratch, open: BTreeMap::new(), last: 0, answer: FuseAnswer::new() }
    }

    /// Answers until the place is gone, or what comes from `stopped` ends.
    pub(super) fn run(mut self, scope: &'s Scope<'s, '_>, stopped: &PipeReader) {
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
                        self.answer.clear();
                        let answered = self.answer(scope, &asked);
                        // One that has ended before its answer wants none: that is no error.
                        drop(self.fuse.write(self.answer.message(asked.unique, answered)));
                    }
                }
                // One that was taken back before it was read.
                Err(Errno::INTR | Errno::AGAIN | Errno::NOENT) => {}
                Err(_) => return,
            }
        }
    }

    /// Makes an answer.
    fn answer(&mut self, scope: &'s Scope<'s, '_>, asked: &Asked<'_>) -> Result<(), Errno> {
        match asked.operation {
            INIT => self.answer.init(),
            LOOKUP => {
                let node = self.find(asked.node, asked.name(0))?;
                let (size, mode) = self.attributes(node)?;
                self.answer.entry(node, size, mode);
            }
            GETATTR => self.tell(asked.node)?,
            SETATTR => {
                let file = self.scratch()?.file(asked.node)?;
                // Modes and times of what is gone in a moment do not matter.
                if asked.number32(0)? & SIZE != 0 && asked.number(16)? != file.size {
                    if asked.number(16)? != 0 {
                        return Err(Errno::OPNOTSUPP);
                    }
                    *file = ScratchFile::default();
                }
                self.tell(asked.node)?;
            }
            OPEN => {
                let (open, how) = self.open(scope, asked)?;
                self.give(open, how);
            }
            READ => self.read(scope, asked)?,
            MKDIR => {
                let node = self.scratch()?.make(asked.node, asked.name(8), false)?;
                let (size, mode) = self.attributes(node)?;
                self.answer.entry(node, size, mode);
            }
            CREATE => {
                let node = self.scratch()?.make(asked.node, asked.name(16), true)?;
                let (size, mode) = self.attributes(node)?;
                self.answer.entry(node, size, mode);
                self.give(OpenFile::Written, DIRECT);
            }
            WRITE => {
                let size = self.write(scope, asked)?;
                self.answer.put32([size, 0]);
            }
            OPENDIR | RELEASEDIR => self.answer.put([0, 0]),
            READDIR => {
                let (from, most) = (asked.number(8)?, asked.number32(16)? as usize);
                let scratch = self.scratch.as_ref().filter(|_| asked.node >= SCRATCH).ok_or(Errno::NOSYS)?;
                for (node, name) in scratch.names_after(asked.node, from) {
                    let kind = FileType::from_raw_mode(scratch.attributes(node)?.1);
                    if !self.answer.name((node, kind), name, most) {
                        break;
                    }
                }
            }
            UNLINK | RMDIR => self.scratch()?.remove(asked.node, asked.name(0))?,
            RELEASE => drop(self.open.remove(&asked.number(0)?)),
            DESTROY => {}
            _ => return Err(Errno::NOSYS),
        }
        Ok(())
    }

    fn scratch(&mut self) -> Result<&mut Scratch, Errno> {
        self.scratch.as_mut().ok_or(Errno::ROFS)
    }

    /// What a name leads to.
    fn find(&self, directory: u64, name: &[u8]) -> Result<u64, Errno> {
        match &self.scratch {
            Some(scratch) if directory >= SCRATCH => scratch.find(directory, name),
            Some(_) if name == COPIES.as_bytes() => Ok(SCRATCH),
            _ => {
                let at = self.files.iter().position(|file| file.name.as_bytes() == name).ok_or(Errno::NOENT)?;
                Ok(ROOT + 1 + at as u64)
            }
        }
    }

    /// Size and mode: of a file of root that may be read, or a directory.
    fn attributes(&self, node: u64) -> Result<(u64, u32), Errno> {
        match &self.scratch {
            Some(scratch) if node >= SCRATCH => scratch.attributes(node),
            _ if node == ROOT => Ok((0, 0o040_500)),
            _ => Ok((self.files[self.file(node)?].size, 0o100_400)),
        }
    }

    /// Answers with what `stat` says.
    fn tell(&mut self, node: u64) -> Result<(), Errno> {
        let (size, mode) = self.attributes(node)?;
        self.answer.put([LONG, 0]);
        self.answer.attributes(node, size, mode);
        Ok(())
    }

    /// Answers with the handle of an open file, and how it is read and written.
    fn give(&mut self, open: OpenFile, how: u32) {
        self.last += 1;
        self.open.insert(self.last, open);
        self.answer.put([self.last]);
        self.answer.put32([how, 0]);
    }

    fn file(&self, node: u64) -> Result<usize, Errno> {
        let at = node.checked_sub(ROOT + 1).and_then(|at| usize::try_from(at).ok());
        at.filter(|at| *at < self.files.len()).ok_or(Errno::NOENT)
    }

    /// Begins to make a file.
    fn begin(&self, scope: &'s Scope<'s, '_>, file: usize) -> PieceReader {
        let (file, (to, from)) = (&self.files[file], pieces());
        scope.spawn(move || (file.make)(to));
        from
    }

    fn open(&mut self, scope: &'s Scope<'s, '_>, asked: &Asked<'_>) -> Result<(OpenFile, u32), Errno> {
        let is_read = asked.number32(0)? & OFlags::RWMODE.bits() == OFlags::RDONLY.bits();
        if asked.node < SCRATCH {
            let file = self.file(asked.node)?;
            return if is_read { Ok((OpenFile::Served(file, self.begin(scope, file)), 0)) } else { Err(Errno::ROFS) };
        }
        if !is_read {
            self.scratch()?.file(asked.node)?;
            return Ok((OpenFile::Written, DIRECT));
        }
        let files = self.files;
        self.settle(asked.node, Vec::new())?;
        let file = self.scratch()?.file(asked.node)?;
        let copied = match &file.content {
            ScratchContent::Own(own) => {
                return Ok((OpenFile::Own(own.try_clone().map_err(|error| errno(&error))?), DIRECT));
            }
            // Half a copy could not be compared with a digest.
            ScratchContent::Copy(of) => of.iter().map(|(of, _)| *of).find(|of| files[*of].size == file.size),
            ScratchContent::Nothing => None,
        };
        let of = copied.ok_or(Errno::IO)?;
        Ok((OpenFile::Copy(of, self.begin(scope, of), Hasher::new()), DIRECT))
    }

    fn read(&mut self, scope: &'s Scope<'s, '_>, asked: &Asked<'_>) -> Result<(), Errno> {
        let (handle, at, size) = (asked.number(0)?, asked.number(8)?, asked.number32(16)?);
        let wanted = |end: u64| usize::try_from(u64::from(size).min(end.saturating_sub(at))).map_err(|_| Errno::INVAL);
        let again = match self.open.get(&handle).ok_or(Errno::BADF)? {
            OpenFile::Served(file, from) if at < self.files[*file].size && !from.has(at) => {
                Some(OpenFile::Served(*file, self.begin(scope, *file)))
            }
            _ => None,
        };
        if let Some(again) = again {
            self.open.insert(handle, again);
        }
        match self.open.get_mut(&handle).ok_or(Errno::BADF)? {
            OpenFile::Served(file, from) => {
                let bytes = self.answer.bytes(wanted(self.files[*file].size)?);
                // An end that comes early is an error of what makes it: who reads it must not take it for the end of the file.
                from.read_at(at, bytes, self.progress).map_err(|_| Errno::IO)
            }
            OpenFile::Copy(file, from, hasher) => {
                let ServedFile { size, digest, .. } = &self.files[*file];
                let bytes = self.answer.bytes(wanted(*size)?);
                // Who reads in another order could not be told in time that the bytes are not those that were copied.
                if bytes.is_empty() || at != hasher.count() {
                    return if bytes.is_empty() { Ok(()) } else { Err(Errno::IO) };
                }
                from.read_at(at, bytes, self.progress).map_err(|_| Errno::IO)?;
                hasher.update(bytes);
                let is_other = hasher.count() == *size && hasher.clone().finish().0 != *digest;
                if is_other { Err(Errno::IO) } else { Ok(()) }
            }
            OpenFile::Own(own) => {
                let end = own.metadata().map_err(|error| errno(&error))?.len();
                own.read_exact_at(self.answer.bytes(wanted(end)?), at).map_err(|error| errno(&error))
            }
            OpenFile::Written => Err(Errno::BADF),
        }
    }

    /// Takes bytes of a temporary file; how many.
    fn write(&mut self, scope: &'s Scope<'s, '_>, asked: &Asked<'_>) -> Result<u32, Errno> {
        let (at, size) = (asked.number(8)?, asked.number32(16)?);
        let bytes = asked.content.get(40..40 + size as usize).ok_or(Errno::INVAL)?;
        if matches!(self.scratch()?.file(asked.node)?.content, ScratchContent::Nothing) {
            let copied = if at == 0 { self.copied(scope, bytes) } else { Vec::new() };
            self.settle(asked.node, copied)?;
        }
        let progress = self.progress;
        self.scratch()?.file(asked.node)?.write(at, bytes, progress)?;
        Ok(size)
    }

    /// Says of a temporary file with nothing in it whether it is a copy of one of these.
    fn settle(&mut self, node: u64, copied: Vec<(usize, PieceReader)>) -> Result<(), Errno> {
        let scratch = self.scratch()?;
        if matches!(scratch.file(node)?.content, ScratchContent::Nothing) {
            scratch.file(node)?.content = match copied.is_empty() {
                true => ScratchContent::Own(scratch.nameless().map_err(|error| errno(&error))?),
                false => ScratchContent::Copy(copied),
            };
        }
        Ok(())
    }

    /// The files that a program reads, and that begin with these bytes: what it writes is a copy of one of them.
    fn copied(&self, scope: &'s Scope<'s, '_>, bytes: &[u8]) -> Vec<(usize, PieceReader)> {
        let mut copied = BTreeMap::new();
        for open in self.open.values() {
            if let OpenFile::Served(file, _) = open
                && !copied.contains_key(file)
            {
                let mut from = self.begin(scope, *file);
                if is_same(&mut from, 0, bytes, self.progress) {
                    copied.insert(*file, from);
                }
            }
        }
        copied.into_iter().collect()
    }
}
