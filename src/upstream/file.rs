//! The file of a lock: read whole, checked, and replaced in one step by one run at a time.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::document::DocumentError;
use super::lock::{Lock, VERSION};
use super::proof::{self, Problem};
use crate::blobs::{At, Staging, WriteError, read_file, write_file};
use crate::progress::Progress;

/// More than any lock has: 1000 images of 10 platforms are a third of it.
const MAX_BYTES: u64 = 64 << 20;

/// Why there is no lock, or why it was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    /// There is no such file.
    #[error("{path}: there is no lock; begin one with: windlass upstream add NAME REFERENCE", path = path.display())]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("read {path}: {source}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Not JSON, or a key with something else than a lock has there.
    #[error("{path}:{line}:{column}: {key}{message}", path = path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
        /// The column, from 1.
        column: usize,
        /// The key, with `: ` after it, or nothing.
        key: String,
        /// What is wrong.
        message: String,
    },
    /// A format that this windlass does not know.
    #[error("{path}: is of version {version}, and this windlass knows version {VERSION}; update windlass", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// What it says.
        version: u64,
    },
    /// Something in it that does not follow from its own bytes.
    #[error("{path}: image '{image}': {problem}", path = path.display())]
    Image {
        /// The file.
        path: PathBuf,
        /// The image.
        image: String,
        /// What is wrong with it.
        problem: Box<Problem>,
    },
    /// Something that was to be written and is no lock.
    #[error("{path}: {source}", path = path.display())]
    Document {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: DocumentError,
    },
    /// It cannot be written.
    #[error("{0}")]
    Write(#[from] WriteError),
}

impl LockError {
    /// Whether bytes are not what their digest says.
    #[must_use]
    pub fn is_wrong_digest(&self) -> bool {
        matches!(self, Self::Image { problem, .. } if problem.is_wrong_digest())
    }
}

/// Reads a lock and checks all of it.
///
/// # Errors
/// See [`LockError`].
pub fn read(path: &Path) -> Result<Lock, LockError> {
    find(path)?.ok_or_else(|| LockError::Missing { path: path.to_owned() })
}

/// The same, for bytes from elsewhere; `path` is for messages.
///
/// # Errors
/// See [`LockError`].
pub fn parse(path: &Path, bytes: &[u8]) -> Result<Lock, LockError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
    }
    let Versioned { version } = parse_json(path, bytes)?;
    if version != u64::from(VERSION) {
        return Err(LockError::Version { path: path.to_owned(), version });
    }
    let lock: Lock = parse_json(path, bytes)?;
    proof::check(&lock).map_err(|(image, problem)| LockError::Image { path: path.to_owned(), image, problem })?;
    Ok(lock)
}

fn parse_json<'de, T: Deserialize<'de>>(path: &Path, bytes: &'de [u8]) -> Result<T, LockError> {
    let mut from = serde_json::Deserializer::from_slice(bytes);
    let format = |error: &serde_json::Error, key: String| {
        let text = error.to_string();
        let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message).to_owned();
        LockError::Format { path: path.to_owned(), line: error.line(), column: error.column(), key, message }
    };
    let value = serde_path_to_error::deserialize(&mut from).map_err(|error| {
        let key = Some(error.path().to_string()).filter(|key| key != ".");
        format(error.inner(), key.map(|key| format!("{key}: ")).unwrap_or_default())
    })?;
    from.end().map_err(|error| format(&error, String::new()))?;
    Ok(value)
}

/// `None` if there is no such file.
fn find(path: &Path) -> Result<Option<Lock>, LockError> {
    let failed = |source| LockError::Read { path: path.to_owned(), source };
    match path.metadata() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Ok(metadata) if metadata.len() > MAX_BYTES => {
            let message = format!("it is larger than {} MiB", MAX_BYTES >> 20);
            return Err(failed(io::Error::new(io::ErrorKind::FileTooLarge, message)));
        }
        _ => {}
    }
    parse(path, &read_file(path).map_err(failed)?).map(Some)
}

/// A lock that is being changed. Others that want to change it wait, readers do not.
#[derive(Debug)]
pub struct Change {
    path: PathBuf,
    before: Option<Lock>,
    /// What the lock is going to be.
    pub lock: Lock,
    /// The folder, locked for as long as this lives: so there is no other file that would have to be ignored or removed.
    _guard: File,
}

impl Change {
    /// Waits for others that change locks in this folder, then reads the lock; if there is none, it is a new one.
    ///
    /// # Errors
    /// See [`LockError`].
    pub fn begin(path: &Path, progress: &Progress) -> Result<Self, LockError> {
        // Where a link leads is what is replaced, not the link.
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        let folder = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let guard = File::open(folder).at("open", folder)?;
        let attempt = || match guard.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        };
        progress.wait_until(folder, attempt).at("lock", folder)?;
        let before = find(&path)?;
        Ok(Self { lock: before.clone().unwrap_or_default(), before, path, _guard: guard })
    }

    /// Whether there was no lock before.
    #[must_use]
    pub const fn is_new(&self) -> bool {
        self.before.is_none()
    }

    /// Puts what the lock is now in the place of what it was. `false`, and the file stays as it is, if that is the same.
    ///
    /// # Errors
    /// If the lock is none, or cannot be written; then the file is what it was.
    pub fn finish(mut self, progress: &Progress) -> Result<bool, LockError> {
        self.lock.tidy().map_err(|source| LockError::Document { path: self.path.clone(), source })?;
        if self.before.as_ref() == Some(&self.lock) {
            return Ok(false);
        }
        let bytes = self.lock.to_bytes();
        // What is written is what the next run will read: nothing that it would refuse.
        parse(&self.path, &bytes)?;
        let staging = Staging::file(&self.path)?;
        write_file(staging.path(), &bytes, progress)?;
        staging.publish()?;
        Ok(true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::digest::Digest;
    use crate::upstream::document::OCI_MANIFEST;
    use crate::upstream::lock::Lock;

    /// A lock with one image of one layer, whose manifest has this note in it.
    fn example(note: &str) -> Value {
        let (config, layer, diff_id) = (Digest::of(b"config"), Digest::of(b"layer"), Digest::of(b"content"));
        let (tar, config_type) =
            ("application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.oci.image.config.v1+json");
        let raw = json!({ "schemaVersion": 2, "mediaType": OCI_MANIFEST, "annotations": { "note": note },
            "config": { "mediaType": config_type, "digest": config, "size": 6 },
            "layers": [{ "mediaType": tar, "digest": layer, "size": 5 }] });
        let raw = format!("\t{raw}\r\n");
        let document =
            json!({ "digest": Digest::of(raw.as_bytes()), "mediaType": OCI_MANIFEST, "size": raw.len(), "raw": raw });
        json!({ "version": 1, "images": { "app": {
            "original": { "ref": "docker.io/a/app:1.0", "platforms": ["linux/amd64"] }, "floating": false,
            "locked": { "registry": "docker.io", "repository": "a/app", "tag": "1.0", "root": document, "platforms": {
                "linux/amd64": { "manifest": document, "config": { "digest": config, "size": 6 }, "totalSize": 11 } } },
        } }, "blobs": {
            config.to_string(): { "size": 6, "mediaType": config_type, "from": ["docker.io/a/app"] },
            layer.to_string(): { "size": 5, "mediaType": tar, "diffId": diff_id, "from": ["docker.io/a/app"] },
        } })
    }

    fn read_value(value: &Value) -> Result<Lock, LockError> {
        parse(Path::new("images.lock.json"), value.to_string().as_bytes())
    }

    /// The sentence about an example that was changed at a place.
    fn told(place: &str, value: Value) -> String {
        let mut changed = example("");
        *changed.pointer_mut(place).unwrap_or_else(|| panic!("{place}")) = value;
        read_value(&changed).unwrap_err().to_string()
    }

    #[test]
    fn what_does_not_follow_from_the_bytes_is_told_with_the_image() {
        let root = "/images/app/locked/root";
        let entry = "/images/app/locked/platforms/linux~1amd64";
        let layer = format!("/blobs/{}", Digest::of(b"layer"));
        for (place, value, words) in [
            (format!("{root}/raw"), json!("{}"), "image 'app': the root has the digest sha256:"),
            (format!("{root}/size"), json!(1), "the size of the root: 1, but it is"),
            (
                format!("{root}/mediaType"),
                json!("application/vnd.oci.image.index.v1+json"),
                "the root: says that it is",
            ),
            (format!("{entry}/totalSize"), json!(1), "linux/amd64: totalSize: 1, but it is 11"),
            (format!("{entry}/config/digest"), json!(Digest::of(b"x")), "linux/amd64: config.digest"),
            (format!("{layer}/size"), json!(1), "blobs: the size of sha256:"),
            (format!("{layer}/diffId"), Value::Null, "is a layer and has no diffId"),
            (format!("{layer}/mediaType"), json!("application/vnd.oci.image.layer.v1.tar+zstd"), "the mediaType of"),
            ("/blobs".to_owned(), json!({}), "is missing"),
            ("/images/app/floating".to_owned(), json!(true), "floating: true, but docker.io/a/app:1.0 is by version"),
            ("/images/app/original/ref".to_owned(), json!("a/app:1.0"), "write it in full: docker.io/a/app:1.0"),
            ("/images/app/original/ref".to_owned(), json!("docker.io/a/app:main"), "floating: false, but"),
            ("/images/app/original/platforms".to_owned(), json!([]), "names none"),
            ("/images/app/original/platforms".to_owned(), json!(["linux/arm64/v8"]), "has another name: linux/arm64"),
            ("/version".to_owned(), json!(2), "is of version 2, and this windlass knows version 1; update windlass"),
        ] {
            let sentence = told(&place, value);
            assert!(sentence.starts_with("images.lock.json: ") && sentence.contains(words), "{place}: {sentence}");
        }
        assert!(read_value(&example("")).is_ok());
        let mut wrong = example("");
        wrong["images"]["app"]["locked"]["root"]["raw"] = json!("{}");
        assert!(read_value(&wrong).unwrap_err().is_wrong_digest());
    }

    #[test]
    fn what_is_no_lock_is_told_with_its_line() {
        let text = String::from_utf8(read_value(&example("")).unwrap().to_bytes()).unwrap();
        let line = 1 + text.lines().position(|line| line.contains("\"totalSize\"")).unwrap();
        for (from, to, words) in [
            ("\"totalSize\": 11", "\"totalSize\": \"a\"", "linux/amd64.totalSize: invalid type"),
            ("\"totalSize\": 11", "\"totalSize\" 11", "expected `:`"),
            ("\"totalSize\": 11", "<<<<<<< HEAD", "key must be a string"),
        ] {
            let error = parse(Path::new("l"), text.replace(from, to).as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("l:{line}:")) && error.contains(words), "{error}");
        }
        let twice = text.replace("\"images\": {", "\"images\": { \"app\": null,");
        for text in [&twice, "", "{}", "[]", "\u{0}", "{\"version\":1}", "{\"version\":1,\"images\":{}} x"] {
            assert!(matches!(parse(Path::new("l"), text.as_bytes()), Err(LockError::Format { .. })), "{text}");
        }
        let image = serde_json::to_string(&example("")["images"]["app"]).unwrap();
        let twice = format!("{{\"version\":1,\"images\":{{\"a\":{image},\n\"a\":{image}}}}}");
        let error = parse(Path::new("l"), twice.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("l:2:") && error.ends_with("'a' is there twice"), "{error}");
    }

    #[test]
    fn nothing_is_written_that_changes_nothing_and_nothing_that_is_no_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("images.lock.json");
        let progress = Progress::new();
        // As somebody has formatted it by hand.
        std::fs::write(&path, example("").to_string()).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(!Change::begin(&path, &progress).unwrap().finish(&progress).unwrap());
        let mut change = Change::begin(&path, &progress).unwrap();
        change.lock.images.get_mut("app").unwrap().floating = true;
        assert!(matches!(change.finish(&progress), Err(LockError::Image { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        let mut change = Change::begin(&path, &progress).unwrap();
        change.lock.images.clear();
        assert!(change.finish(&progress).unwrap());
        let lock = read(&path).unwrap();
        assert!(lock.blobs.is_empty(), "what no image needs is gone");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(matches!(read(&folder.path().join("none")), Err(LockError::Missing { .. })));
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("real.json"), folder.path().join("link.json"));
        std::fs::write(&path, example("").to_string()).unwrap();
        std::os::unix::fs::symlink("real.json", &link).unwrap();
        let mut change = Change::begin(&link, &Progress::new()).unwrap();
        change.lock.images.clear();
        assert!(change.finish(&Progress::new()).unwrap());
        assert!(link.is_symlink() && read(&path).unwrap().images.is_empty());
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            ".*".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 12, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map(".*", inner, 0..3).prop_map(|map| map.into_iter().collect()),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_same_lock_is_the_same_bytes(note in ".*", reason in ".*", unknown in any_json()) {
            let mut value = example(&note);
            value["images"]["app"]["reason"] = reason.into();
            for place in ["", "/images/app", "/images/app/original", "/images/app/locked", "/images/app/locked/root"] {
                value.pointer_mut(place).unwrap()["x-later"] = unknown.clone();
            }
            let lock = read_value(&value).unwrap();
            let bytes = lock.to_bytes();
            prop_assert!(bytes.is_ascii(), "not ASCII");
            let again = parse(Path::new("l"), &bytes).unwrap();
            prop_assert_eq!(&again, &lock);
            prop_assert_eq!(again.to_bytes(), bytes);
            let raw = &lock.images["app"].locked.as_ref().unwrap().root;
            prop_assert_eq!(Digest::of(raw.raw.as_bytes()), raw.digest);
            prop_assert_eq!(&again.images["app"].other["x-later"], &lock.images["app"].other["x-later"]);
        }
    }
}
