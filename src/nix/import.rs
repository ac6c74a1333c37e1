//! Store paths that come from elsewhere: what `nix-store --import` reads.
//!
//! For each path: 1, its NAR, a magic number, the path, how many paths it refers to and these, who derived it (nothing here),
//! and 0 for no signature; at the end 0. Numbers have 8 bytes, little endian, strings are those of a NAR (`exportPath` of Nix
//! 2.8 and 2.26). Nix records the hash of what it reads, whatever that is: so it is compared here, and what differs is cut
//! off before Nix has all of it.

use std::fs::File;
use std::io::{self, BufWriter, Read, Seek, Write};
use std::process::{Child, ChildStdin, Command, Stdio};

use super::nar::NarWriter;
use super::path_info::PathInfo;
use super::store::NixError;
use super::store_path::{NarHash, StoreDir};
use crate::oci::digest::Hasher;

const MAGIC: u64 = 0x4558_494e;

/// A `nix-store --import` that is at work.
pub(crate) struct NixImport {
    child: Child,
    out: BufWriter<ChildStdin>,
    said: File,
}

/// Writes to Nix, and hashes what it writes.
pub(crate) struct HashedNar<'o> {
    out: &'o mut BufWriter<ChildStdin>,
    hasher: Hasher,
}

impl Write for HashedNar<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.out.write_all(bytes)?;
        self.hasher.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl NixImport {
    /// Starts Nix.
    ///
    /// # Errors
    /// If it cannot be started.
    pub(crate) fn begin() -> Result<Self, NixError> {
        let said = tempfile::tempfile().map_err(NixError::Missing)?;
        let mut command = Command::new("nix-store");
        command.arg("--import").stdin(Stdio::piped()).stdout(Stdio::null());
        command.stderr(said.try_clone().map_err(NixError::Missing)?);
        let mut child = command.spawn().map_err(NixError::Missing)?;
        let out = BufWriter::with_capacity(1 << 18, child.stdin.take().expect("it has a pipe"));
        Ok(Self { child, out, said })
    }

    /// Sends a path, all of whose references the store has by now; `tree` writes what the path is. `false` if its hash is
    /// another one: Nix has not taken it, and this import is over.
    ///
    /// # Errors
    /// If the tree cannot be read, or Nix takes no more: see [`finish`](Self::finish) for why.
    pub(crate) fn send(
        &mut self,
        store: &StoreDir,
        info: &PathInfo,
        tree: &mut dyn FnMut(&mut NarWriter<HashedNar<'_>>) -> io::Result<()>,
    ) -> io::Result<bool> {
        self.out.write_all(&1_u64.to_le_bytes())?;
        let mut nar = NarWriter::begin(HashedNar { out: &mut self.out, hasher: Hasher::new() })?;
        tree(&mut nar)?;
        let (digest, _) = nar.out.hasher.finish();
        if NarHash::from_bytes(*digest.as_bytes()) != info.nar_hash {
            return Ok(false);
        }
        let mut out = NarWriter { out: &mut self.out };
        out.out.write_all(&MAGIC.to_le_bytes())?;
        out.string(store.display(&info.path).to_string().as_bytes())?;
        let itself = info.self_reference.then_some(&info.path);
        let mut references: Vec<String> =
            info.references.iter().chain(itself).map(|path| store.display(path).to_string()).collect();
        references.sort();
        out.out.write_all(&(references.len() as u64).to_le_bytes())?;
        references.iter().try_for_each(|path| out.string(path.as_bytes()))?;
        out.string(b"")?;
        out.out.write_all(&0_u64.to_le_bytes())?;
        Ok(true)
    }

    /// Ends the stream, and waits until Nix has all of it.
    ///
    /// # Errors
    /// With what Nix says.
    pub(crate) fn finish(mut self) -> Result<(), NixError> {
        let ended = self.out.write_all(&0_u64.to_le_bytes()).and_then(|()| self.out.flush());
        let Self { mut child, out, mut said } = self;
        drop(out);
        let status = child.wait().map_err(NixError::Missing)?;
        if status.success() && ended.is_ok() {
            return Ok(());
        }
        let mut text = String::new();
        drop(said.rewind().and_then(|()| said.read_to_string(&mut text)));
        let text = text.trim().lines().last().unwrap_or("it ended early").trim_start_matches("error: ").to_owned();
        Err(NixError::Failed { what: "--import", said: text })
    }

    /// Ends it in the middle of a path; what was sent before stays.
    pub(crate) fn cut_off(self) {
        let Self { mut child, out, .. } = self;
        // What is in the buffer belongs to paths that are whole, and to the one that is not.
        drop(out);
        drop(child.wait());
    }
}
