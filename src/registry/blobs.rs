//! Large blobs, into files, going on where a run before this one stopped.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ureq::Body;
use ureq::http::{Method, Response};

use super::answer::{header_number, header_text};
use super::client::{Client, blob_name};
use super::error::RegistryError;
use super::location::Location;
use super::url::Url;
use crate::digest::{Digest, Hasher};
use crate::progress::Progress;

/// Bytes that are read, hashed and written at once.
const CHUNK: usize = 128 << 10;

/// What a download took.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes that came over the network.
    pub bytes_from_network: u64,
    /// Bytes that were there from a run before.
    pub resumed_from: u64,
}

/// What is there of a blob: a file, locked by this process, and the hash of what is in it.
struct Part {
    path: PathBuf,
    file: File,
    hasher: Hasher,
}

/// What is to come.
struct Wanted<'a> {
    at: &'a Location,
    what: String,
    url: Url,
    digest: Digest,
    size: u64,
}

impl Client {
    /// Downloads a blob to `to`, by way of `<to>.part`, which stays when this fails and is gone on with by the next run.
    /// `to` gets its name when all bytes are there and have the right digest, and is read again by the next run that wants
    /// it: so nothing waits for the disk here, and who needs the file there syncs it. One that is there already and right is
    /// left as it is. Two processes may do this at once: one waits for the other.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn fetch_blob(
        &self,
        at: &Location,
        digest: Digest,
        size: u64,
        to: &Path,
        progress: &Progress,
    ) -> Result<Fetched, RegistryError> {
        let url = self.transport.url(at, &format!("blobs/{digest}"))?;
        self.fetch(&Wanted { at, what: blob_name(at, digest), url, digest, size }, to, progress)
    }

    /// Downloads a blob from a web server, which has it at this address, in the same way.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub fn fetch_web(
        &self,
        address: &str,
        digest: Digest,
        size: u64,
        to: &Path,
        progress: &Progress,
    ) -> Result<Fetched, RegistryError> {
        let none = |reason: &str| RegistryError::Malformed {
            host: "no server".to_owned(),
            what: address.to_owned(),
            reason: reason.to_owned(),
        };
        let url = Url::parse(address).ok_or_else(|| none("that is no address"))?;
        let at = Location::new(url.host(), "blobs")?;
        if !url.is_allowed(self.transport.options.insecure) {
            return Err(RegistryError::Insecure { host: url.host().to_owned() });
        }
        self.fetch(&Wanted { at: &at, what: address.to_owned(), url, digest, size }, to, progress)
    }

    fn fetch(&self, wanted: &Wanted<'_>, to: &Path, progress: &Progress) -> Result<Fetched, RegistryError> {
        let &Wanted { digest, size, .. } = wanted;
        let mut name = to.as_os_str().to_owned();
        name.push(".part");
        let path = PathBuf::from(name);
        let Some(file) = lock(&path, progress)? else {
            // Whoever had it locked has finished it, or thrown it away.
            return self.fetch(wanted, to, progress);
        };
        if is_there(to, wanted, progress)? {
            remove(&path)?;
            progress.count_kept(size);
            return Ok(Fetched { bytes_from_network: 0, resumed_from: size });
        }
        let mut part = Part { path, file, hasher: Hasher::new() };
        part.take_up(wanted, progress)?;
        let mut fetched = self.complete(wanted, &mut part, progress)?;
        if part.hasher.clone().finish().0 != digest && fetched.resumed_from > 0 {
            // What was there was of something else, or damaged.
            part.empty()?;
            let again = self.complete(wanted, &mut part, progress)?;
            let bytes_from_network = fetched.bytes_from_network + again.bytes_from_network;
            fetched = Fetched { bytes_from_network, resumed_from: 0 };
        }
        let found = part.hasher.clone().finish().0;
        if found != digest {
            remove(&part.path)?;
            return Err(RegistryError::WrongDigest { what: wanted.what.clone(), found });
        }
        std::fs::rename(&part.path, to).map_err(failed(to))?;
        Ok(fetched)
    }

    /// Downloads what is missing, in as many tries as it takes while each of them gets on.
    fn complete(&self, wanted: &Wanted<'_>, part: &mut Part, progress: &Progress) -> Result<Fetched, RegistryError> {
        let kept = part.hasher.count();
        let mut fetched = Fetched { bytes_from_network: 0, resumed_from: kept };
        progress.count_kept(kept);
        let mut tries = self.transport.tries(wanted.at, progress);
        while part.hasher.count() < wanted.size {
            let before = part.hasher.count();
            let step = self.go_on(wanted, part, &mut fetched, progress);
            if part.hasher.count() > before {
                tries.went_on();
            }
            match step {
                Ok(()) => {}
                Err(error) => tries.again(error)?,
            }
        }
        Ok(fetched)
    }

    /// One request for what is missing.
    fn go_on(
        &self,
        wanted: &Wanted<'_>,
        part: &mut Part,
        fetched: &mut Fetched,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        let mut ask = self.ask(wanted.at, &wanted.what, Method::GET, "")?;
        ask.url = wanted.url.clone();
        let start = part.hasher.count();
        if start > 0 {
            ask.headers.push(("range", format!("bytes={start}-")));
        }
        let response = match self.transport.send(&ask, progress) {
            Err(RegistryError::Refused { status: 416, .. }) if start > 0 => {
                part.empty()?;
                fetched.resumed_from = 0;
                ask.headers.clear();
                self.transport.send(&ask, progress)?
            }
            answer => answer?,
        };
        if response.status() != 206 && start > 0 {
            // The registry sends all of it, whatever it was asked for.
            part.empty()?;
            fetched.resumed_from = 0;
        }
        check_size(wanted, part.hasher.count(), &response)?;
        let mut incoming = self.transport.incoming(&ask, response, progress);
        let mut buffer = vec![0; CHUNK];
        loop {
            let read = incoming.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            fetched.bytes_from_network += read as u64;
            if part.hasher.count() + read as u64 > wanted.size {
                let found = part.hasher.count() + read as u64;
                remove(&part.path)?;
                return Err(RegistryError::WrongSize { what: wanted.what.clone(), expected: wanted.size, found });
            }
            part.file.write_all(&buffer[..read]).map_err(failed(&part.path))?;
            part.hasher.update(&buffer[..read]);
            progress.count_written(read as u64);
        }
        if part.hasher.count() < wanted.size {
            let reason = format!("{} of {} bytes had come", part.hasher.count(), wanted.size);
            let host = wanted.at.host().to_owned();
            return Err(RegistryError::CutOff { host, what: wanted.what.clone(), reason });
        }
        Ok(())
    }
}

/// Whether the registry is about to send what is missing after `start` bytes.
fn check_size(wanted: &Wanted<'_>, start: u64, response: &Response<Body>) -> Result<(), RegistryError> {
    let headers = response.headers();
    let wrong = |found| RegistryError::WrongSize { what: wanted.what.clone(), expected: wanted.size, found };
    if response.status() == 206 {
        // `bytes 100-199/200`, or `*` for a size that is not known.
        let range = header_text(headers, "content-range").and_then(|text| text.strip_prefix("bytes "));
        let (bytes, size) = range.and_then(|range| range.split_once('/')).unwrap_or_default();
        if bytes.split('-').next().and_then(|first| first.parse().ok()) != Some(start) {
            let (host, what) = (wanted.at.host().to_owned(), wanted.what.clone());
            let reason = format!("it was asked for the bytes from {start} on");
            return Err(RegistryError::Malformed { host, what, reason });
        }
        return size.parse().ok().filter(|size| *size != wanted.size).map_or(Ok(()), |size| Err(wrong(size)));
    }
    let size = header_number(headers, "content-length");
    size.filter(|size| *size != wanted.size).map_or(Ok(()), |size| Err(wrong(size)))
}

impl Part {
    /// Hashes what is there. Too much is nothing.
    fn take_up(&mut self, wanted: &Wanted<'_>, progress: &Progress) -> Result<(), RegistryError> {
        let size = self.file.metadata().map_err(failed(&self.path))?.len();
        if size > wanted.size {
            self.empty()?;
        } else {
            self.hasher = hashed(&mut self.file, &self.path, progress)?;
        }
        if self.hasher.count() == wanted.size && self.hasher.clone().finish().0 != wanted.digest {
            self.empty()?;
        }
        Ok(())
    }

    fn empty(&mut self) -> Result<(), RegistryError> {
        self.hasher = Hasher::new();
        self.file.set_len(0).and_then(|()| self.file.rewind()).map_err(failed(&self.path))
    }
}

/// Opens the part and locks it. `None` if it lost its name while another process had it.
fn lock(path: &Path, progress: &Progress) -> Result<Option<File>, RegistryError> {
    let mut options = OpenOptions::new();
    let file = options.read(true).write(true).create(true).truncate(false).open(path).map_err(failed(path))?;
    let attempt = || match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(source)) => Err(source),
    };
    progress.wait_until(path, attempt).map_err(|source| match progress.check() {
        Err(source) => RegistryError::Stopped { source },
        Ok(()) => failed(path)(source),
    })?;
    let ours = file.metadata().map_err(failed(path))?;
    let named = match std::fs::symlink_metadata(path) {
        Ok(named) => Some(named),
        Err(error) if error.kind() == io::ErrorKind::NotFound => None,
        Err(error) => return Err(failed(path)(error)),
    };
    let same = named.is_some_and(|named| (named.dev(), named.ino()) == (ours.dev(), ours.ino()));
    Ok(same.then_some(file))
}

/// Whether the blob is there, whole and right.
fn is_there(to: &Path, wanted: &Wanted<'_>, progress: &Progress) -> Result<bool, RegistryError> {
    let mut file = match File::open(to) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(failed(to)(error)),
    };
    if file.metadata().map_err(failed(to))?.len() != wanted.size {
        return Ok(false);
    }
    Ok(hashed(&mut file, to, progress)?.finish().0 == wanted.digest)
}

/// The hash of a file from its first byte; the next byte is written behind its last.
fn hashed(file: &mut File, path: &Path, progress: &Progress) -> Result<Hasher, RegistryError> {
    let mut hasher = Hasher::new();
    let mut buffer = vec![0; CHUNK];
    file.rewind().map_err(failed(path))?;
    loop {
        progress.check().map_err(|source| RegistryError::Stopped { source })?;
        let read = file.read(&mut buffer).map_err(failed(path))?;
        if read == 0 {
            break;
        }
        hasher.update(&buffer[..read]);
    }
    file.seek(SeekFrom::Start(hasher.count())).map_err(failed(path))?;
    Ok(hasher)
}

fn remove(path: &Path) -> Result<(), RegistryError> {
    std::fs::remove_file(path).map_err(failed(path))
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> RegistryError + use<> {
    let path = path.to_owned();
    move |source| RegistryError::Io { path, source }
}
