//! Large blobs, into files, going on where a run before this one stopped.
//!
//! What is gone on with is safe: all bytes are compared with the digest, and where the digest is not known, the server is
//! asked for the rest of the same version, or for all.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use ureq::Body;
use ureq::http::{Method, Response};

use super::answer::{Incoming, header_number, header_text};
use super::client::{RegistryClient, blob_name};
use super::error::RegistryError;
use super::location::Location;
use super::transport::{Access, Ask, RequestBody};
use super::url::Url;
use crate::disk::bounded;
use crate::disk::pairs::PairedHasher;
use crate::disk::progress::Progress;
use crate::oci::digest::{Digest, Hasher};

/// Bytes that are read and hashed at once.
const CHUNK: usize = 128 << 10;

/// What a download took, and what came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetched {
    /// Bytes that came over the network.
    pub bytes_from_network: u64,
    /// Bytes that were there from a run before.
    pub resumed_from: u64,
    /// The digest of all bytes.
    pub(crate) digest: Digest,
    /// How many they are.
    pub(crate) size: u64,
}

/// What is there of a blob: a file, locked by this process, and the hash of what is in it.
struct PartialBlob {
    path: PathBuf,
    file: File,
    hasher: Hasher,
}

/// What a download has taken so far.
struct Taken {
    network: u64,
    kept: u64,
}

/// What is to come.
pub(super) struct BlobRequest<'a> {
    pub(super) at: &'a Location,
    pub(super) what: String,
    pub(super) url: Url,
    pub(super) access: Access<'a>,
    /// `None` where the caller wants to learn it.
    pub(super) digest: Option<Digest>,
    /// `None` where it is not known.
    pub(super) size: Option<u64>,
    /// The `ETag` of what is there of it, for a digest that is not known: what is gone on with must be of the same bytes.
    pub(super) version: Option<&'a str>,
}

impl RegistryClient {
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
        let (what, access) = (blob_name(at, digest), Access::Pull);
        let (digest, size) = (Some(digest), Some(size));
        self.fetch(&BlobRequest { at, what, url, access, digest, size, version: None }, to, progress)
    }

    /// Reads a blob once, in one request, and keeps nothing. What `take` makes of it counts only if it has read all, and all has this
    /// digest and size.
    ///
    /// # Errors
    /// See [`RegistryError`]. What `take` says is inside.
    pub(crate) fn read_blob<T>(
        &self,
        at: &Location,
        digest: Digest,
        size: u64,
        progress: &Progress,
        take: &mut (dyn FnMut(&mut (dyn io::Read + Send)) -> io::Result<T> + '_),
    ) -> Result<io::Result<T>, RegistryError> {
        let what = blob_name(at, digest);
        let ask = self.ask(at, &what, Method::GET, &format!("blobs/{digest}"))?;
        let response = self.transport.send(&ask, progress)?;
        let incoming = self.transport.incoming(&ask, response, progress);
        let mut reader = BlobReader { incoming, hasher: Hasher::new(), most: size, failed: None };
        let taken = take(&mut reader);
        if let Some(error) = reader.failed {
            return Err(error);
        }
        let (found, read) = reader.hasher.finish();
        match taken {
            Ok(_) if read != size => Err(RegistryError::WrongSize { what, expected: size, found: read }),
            Ok(_) if found != digest => Err(RegistryError::WrongDigest { what, found }),
            taken => Ok(taken),
        }
    }

    /// Downloads what is wanted, see [`fetch_blob`](Self::fetch_blob).
    pub(super) fn fetch(
        &self,
        wanted: &BlobRequest<'_>,
        to: &Path,
        progress: &Progress,
    ) -> Result<Fetched, RegistryError> {
        let mut name = to.as_os_str().to_owned();
        name.push(".part");
        let path = PathBuf::from(name);
        let Some(file) = lock(&path, progress)? else {
            // The run that had it locked has finished it, or thrown it away.
            return self.fetch(wanted, to, progress);
        };
        if let Some((digest, size)) = is_there(to, wanted, progress)? {
            remove(&path)?;
            progress.count_kept(size);
            return Ok(Fetched { bytes_from_network: 0, resumed_from: size, digest, size });
        }
        let mut part = PartialBlob { path, file, hasher: Hasher::new() };
        part.take_up(wanted, progress)?;
        let mut taken = self.complete(wanted, &mut part, progress).inspect_err(|_| {
            if part.hasher.count() == 0 {
                drop(remove(&part.path));
            }
        })?;
        if !wanted.is(part.found().0) && taken.kept > 0 {
            // What was there was of something else, or damaged.
            part.empty()?;
            let again = self.complete(wanted, &mut part, progress)?;
            taken = Taken { network: taken.network + again.network, kept: 0 };
        }
        let (digest, size) = part.found();
        if !wanted.is(digest) {
            remove(&part.path)?;
            return Err(RegistryError::WrongDigest { what: wanted.what.clone(), found: digest });
        }
        std::fs::rename(&part.path, to).map_err(failed(to))?;
        Ok(Fetched { bytes_from_network: taken.network, resumed_from: taken.kept, digest, size })
    }

    /// Downloads what is missing, in as many tries as it takes while each of them gets on.
    fn complete(
        &self,
        wanted: &BlobRequest<'_>,
        part: &mut PartialBlob,
        progress: &Progress,
    ) -> Result<Taken, RegistryError> {
        let kept = part.hasher.count();
        let mut taken = Taken { network: 0, kept };
        progress.count_kept(kept);
        let mut tries = self.transport.tries(wanted.at, progress);
        while wanted.size != Some(part.hasher.count()) {
            let before = part.hasher.count();
            let step = self.go_on(wanted, part, &mut taken, progress);
            if part.hasher.count() > before {
                tries.went_on();
            }
            match step {
                Ok(()) => break,
                Err(error) => tries.again(error)?,
            }
        }
        Ok(taken)
    }

    /// One request for all that is missing.
    fn go_on(
        &self,
        wanted: &BlobRequest<'_>,
        part: &mut PartialBlob,
        taken: &mut Taken,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        let (url, access, what) = (wanted.url.clone(), wanted.access, wanted.what.as_str());
        let (headers, payload) = (Vec::new(), RequestBody::Nothing);
        let mut ask = Ask { at: wanted.at, what, method: Method::GET, url, access, headers, payload, stores: false };
        let start = part.hasher.count();
        if start > 0 {
            ask.headers.push(("range", format!("bytes={start}-")));
            ask.headers.extend(wanted.version.map(|version| ("if-range", version.to_owned())));
        }
        let response = match self.transport.send(&ask, progress) {
            Err(RegistryError::Refused { status: 416, .. }) if start > 0 => {
                part.empty()?;
                taken.kept = 0;
                ask.headers.clear();
                self.transport.send(&ask, progress)?
            }
            answer => answer?,
        };
        if response.status() != 206 && start > 0 {
            // The registry sends all of it, whatever it was asked for.
            part.empty()?;
            taken.kept = 0;
        }
        let size = announced(wanted, part.hasher.count(), &response)?;
        let incoming = self.transport.incoming(&ask, response, progress);
        part.receive(incoming, wanted, size, &mut taken.network, progress)?;
        if let Some(size) = size.filter(|size| part.hasher.count() < *size) {
            let reason = format!("{} of {size} bytes had come", part.hasher.count());
            let host = wanted.at.host().to_owned();
            return Err(RegistryError::CutOff { host, what: wanted.what.clone(), reason });
        }
        Ok(())
    }
}

/// A blob as it comes, hashed; of more bytes than it should have it gives none.
struct BlobReader<'a> {
    incoming: Incoming<'a>,
    hasher: Hasher,
    most: u64,
    failed: Option<RegistryError>,
}

impl io::Read for BlobReader<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.incoming.read(buffer).map_err(|error| {
            let told = io::Error::other(error.to_string());
            self.failed = Some(error);
            told
        })?;
        self.hasher.update(&buffer[..read]);
        if self.hasher.count() > self.most {
            return Err(io::Error::other("it is larger than the registry said"));
        }
        Ok(read)
    }
}

/// How many bytes all of it has, by what the server is about to send after `start` bytes; `None` if the server does not say.
fn announced(wanted: &BlobRequest<'_>, start: u64, response: &Response<Body>) -> Result<Option<u64>, RegistryError> {
    let headers = response.headers();
    let size = if response.status() == 206 {
        // `bytes 100-199/200`, or `*` for a size that is not known.
        let range = header_text(headers, "content-range").and_then(|text| text.strip_prefix("bytes "));
        let (bytes, size) = range.and_then(|range| range.split_once('/')).unwrap_or_default();
        if bytes.split('-').next().and_then(|first| first.parse().ok()) != Some(start) {
            let (host, what) = (wanted.at.host().to_owned(), wanted.what.clone());
            let reason = format!("it was asked for the bytes from {start} on");
            return Err(RegistryError::Malformed { host, what, reason });
        }
        size.parse().ok()
    } else {
        header_number(headers, "content-length")
    };
    match (wanted.size, size) {
        (Some(expected), Some(found)) if expected != found => {
            Err(RegistryError::WrongSize { what: wanted.what.clone(), expected, found })
        }
        (expected, found) => Ok(expected.or(found)),
    }
}

impl BlobRequest<'_> {
    /// Whether these are the bytes that are wanted, as far as is known.
    fn is(&self, found: Digest) -> bool {
        self.digest.is_none_or(|digest| digest == found)
    }
}

impl PartialBlob {
    /// Hashes what is there. Too much is nothing, and so is what may be of other bytes.
    fn take_up(&mut self, wanted: &BlobRequest<'_>, progress: &Progress) -> Result<(), RegistryError> {
        let size = self.file.metadata().map_err(failed(&self.path))?.len();
        let unknown = wanted.digest.is_none() && wanted.version.is_none();
        if unknown || wanted.size.is_some_and(|wanted| size > wanted) {
            self.empty()?;
        } else {
            self.hasher = hashed(&mut self.file, &self.path, progress)?;
        }
        if Some(self.hasher.count()) == wanted.size && !wanted.is(self.found().0) {
            self.empty()?;
        }
        Ok(())
    }

    /// Digest and size of what is there.
    fn found(&self) -> (Digest, u64) {
        self.hasher.clone().finish()
    }

    /// Writes what comes, to its end, and hashes it beside other blobs that come at the same time.
    fn receive(
        &mut self,
        mut incoming: Incoming<'_>,
        wanted: &BlobRequest<'_>,
        size: Option<u64>,
        network: &mut u64,
        progress: &Progress,
    ) -> Result<(), RegistryError> {
        let mut found = self.hasher.count();
        let mut stream = PairedHasher::going_on(progress.pairs(), std::mem::replace(&mut self.hasher, Hasher::new()));
        let mut receive = || loop {
            let space = stream.space();
            let read = incoming.read(space)?;
            if read == 0 {
                return Ok(());
            }
            *network += read as u64;
            found += read as u64;
            if let Some(expected) = size.filter(|size| found > *size) {
                remove(&self.path)?;
                return Err(RegistryError::WrongSize { what: wanted.what.clone(), expected, found });
            }
            self.file.write_all(&space[..read]).map_err(failed(&self.path))?;
            stream.advance(read);
            progress.count_written(read as u64);
        };
        let received = receive();
        self.hasher = stream.take_out();
        received
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

/// Digest and size of the blob if it is there, whole and right.
fn is_there(to: &Path, wanted: &BlobRequest<'_>, progress: &Progress) -> Result<Option<(Digest, u64)>, RegistryError> {
    let mut file = match bounded::open(to) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(to)(error)),
    };
    let size = file.metadata().map_err(failed(to))?.len();
    let unknown = wanted.digest.is_none() && wanted.version.is_none();
    if unknown || wanted.size.is_some_and(|wanted| wanted != size) {
        return Ok(None);
    }
    let (digest, size) = hashed(&mut file, to, progress)?.finish();
    Ok(wanted.is(digest).then_some((digest, size)))
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
