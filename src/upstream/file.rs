//! The file of a lock of images.

use std::path::{Path, PathBuf};

use super::document::DocumentError;
use super::lock::{UpstreamLock, VERSION};
use super::proof::{self, LockProblem};
use crate::class::{Class, Classified};
use crate::disk::lock_file::{self, LockFile, LockFileError};

/// Why there is no lock, or why it was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LockError {
    #[error(transparent)]
    File(#[from] LockFileError),
    /// Something in it that does not follow from its own bytes.
    #[error("{path}: image '{image}': {problem}", path = path.display())]
    Image {
        path: PathBuf,
        image: String,
        /// What is wrong with it.
        problem: Box<LockProblem>,
    },
    /// Something that was to be written and is not a lock.
    #[error("{path}: {source}", path = path.display())]
    Document { path: PathBuf, source: DocumentError },
}

impl Classified for LockError {
    fn class(&self) -> Class {
        match self {
            Self::File(error) => error.class(),
            Self::Image { problem, .. } => problem.class(),
            Self::Document { source, .. } => source.class(),
        }
    }
}

impl LockFile for UpstreamLock {
    const VERSION: u32 = VERSION;
    const BEGIN: &'static str = "windlass upstream add NAME REFERENCE";
    type Error = LockError;

    fn check(&self, path: &Path) -> Result<(), LockError> {
        proof::check(self).map_err(|(image, problem)| LockError::Image { path: path.to_owned(), image, problem })
    }

    fn tidy(&mut self, path: &Path) -> Result<(), LockError> {
        self.drop_unneeded().map_err(|source| LockError::Document { path: path.to_owned(), source })
    }
}

/// A lock of images that is being changed.
pub(crate) type UpstreamLockChange = lock_file::LockFileChange<UpstreamLock>;

/// Reads a lock and checks all of it.
///
/// # Errors
/// See [`LockError`].
pub(crate) fn read(path: &Path) -> Result<UpstreamLock, LockError> {
    lock_file::read(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::disk::lock_file::{parse, to_text};
    use crate::disk::progress::Progress;
    use crate::oci::digest::Digest;
    use crate::upstream::document::OCI_MANIFEST;
    use crate::upstream::lock::UpstreamLock;

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

    fn read_value(value: &Value) -> Result<UpstreamLock, LockError> {
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
        assert_eq!(read_value(&wrong).unwrap_err().class(), Class::Unverified);
    }

    #[test]
    fn what_is_no_lock_is_told_with_its_line() {
        let text = to_text(&read_value(&example("")).unwrap());
        let line = 1 + text.lines().position(|line| line.contains("\"totalSize\"")).unwrap();
        for (from, to, words) in [
            ("\"totalSize\": 11", "\"totalSize\": \"a\"", "linux/amd64.totalSize: invalid type"),
            ("\"totalSize\": 11", "\"totalSize\" 11", "expected `:`"),
            ("\"totalSize\": 11", "<<<<<<< HEAD", "key must be a string"),
        ] {
            let error =
                parse::<UpstreamLock>(Path::new("l"), text.replace(from, to).as_bytes()).unwrap_err().to_string();
            assert!(error.starts_with(&format!("l:{line}:")) && error.contains(words), "{error}");
        }
        let twice = text.replace("\"images\": {", "\"images\": { \"app\": null,");
        for text in [&twice, "", "{}", "[]", "\u{0}", "{\"version\":1}", "{\"version\":1,\"images\":{}} x"] {
            assert!(
                matches!(
                    parse::<UpstreamLock>(Path::new("l"), text.as_bytes()),
                    Err(LockError::File(LockFileError::Format { .. }))
                ),
                "{text}"
            );
        }
        let image = serde_json::to_string(&example("")["images"]["app"]).unwrap();
        let twice = format!("{{\"version\":1,\"images\":{{\"a\":{image},\n\"a\":{image}}}}}");
        let error = parse::<UpstreamLock>(Path::new("l"), twice.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("l:2:") && error.ends_with("'a' is there twice"), "{error}");
    }

    #[test]
    fn nothing_is_written_that_changes_nothing_and_nothing_that_is_no_lock() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("images.lock.json");
        let progress = Progress::new();
        // As a person has formatted it by hand.
        std::fs::write(&path, example("").to_string()).unwrap();
        let before = std::fs::read(&path).unwrap();
        assert!(!UpstreamLockChange::begin(&path, &progress).unwrap().finish(&progress).unwrap());
        let mut change = UpstreamLockChange::begin(&path, &progress).unwrap();
        change.lock.images.get_mut("app").unwrap().floating = true;
        assert!(matches!(change.finish(&progress), Err(LockError::Image { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), before);
        let mut change = UpstreamLockChange::begin(&path, &progress).unwrap();
        change.lock.images.clear();
        assert!(change.finish(&progress).unwrap());
        let lock = read(&path).unwrap();
        assert!(lock.blobs.is_empty(), "what no image needs is gone");
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(matches!(read(&folder.path().join("none")), Err(LockError::File(LockFileError::Missing { .. }))));
    }

    #[test]
    fn a_link_stays_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (path, link) = (folder.path().join("real.json"), folder.path().join("link.json"));
        std::fs::write(&path, example("").to_string()).unwrap();
        std::os::unix::fs::symlink("real.json", &link).unwrap();
        let mut change = UpstreamLockChange::begin(&link, &Progress::new()).unwrap();
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
            let text = to_text(&lock);
            prop_assert!(text.is_ascii(), "not ASCII");
            let again = parse::<UpstreamLock>(Path::new("l"), text.as_bytes()).unwrap();
            prop_assert_eq!(&again, &lock);
            prop_assert_eq!(to_text(&again), text);
            let raw = &lock.images["app"].locked.as_ref().unwrap().root;
            prop_assert_eq!(Digest::of(raw.raw.as_bytes()), raw.digest);
            prop_assert_eq!(&again.images["app"].other["x-later"], &lock.images["app"].other["x-later"]);
        }
    }
}
