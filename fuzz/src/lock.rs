//! Locks, and lists that people keep: what is taken is written and read again as the same.
//! The first line says which: `upstream`, `models`, `versions` or `state`.

use std::collections::BTreeSet;
use std::fmt::Debug;
use std::path::Path;

use windlass::internals::disk::lock_file::{LockFile, parse, to_text};
use windlass::internals::model::pin::lock::ModelLock;
use windlass::internals::names::is_unprintable;
use windlass::internals::oci::digest::Digest;
use windlass::internals::upstream::lock::UpstreamLock;
use windlass::internals::upstream::state::UpstreamState;
use windlass::internals::upstream::versions;

use super::stays_inside;

fn again<L: LockFile + Debug>(data: &[u8]) -> Option<L> {
    let path = Path::new("lock.json");
    let mut lock: L = parse(path, data).ok()?;
    let text = to_text(&lock);
    assert!(text.is_ascii());
    assert_eq!(parse::<L>(path, text.as_bytes()).ok().as_ref(), Some(&lock), "what was written is read");
    if lock.tidy(path).is_ok() {
        let tidied = to_text(&lock);
        let mut again = parse::<L>(path, tidied.as_bytes()).ok().expect("what is tidy is a lock");
        assert_eq!(again, lock);
        assert!(again.tidy(path).is_ok() && again == lock, "tidied twice is tidied once");
    }
    Some(lock)
}

/// See the module.
pub fn check(data: &[u8]) -> bool {
    let at = data.iter().position(|byte| *byte == b'\n').unwrap_or(data.len());
    let (kind, data) = (&data[..at], data.get(at + 1..).unwrap_or_default());
    match kind {
        b"upstream" => again::<UpstreamLock>(data).map(|lock| upstream(&lock)).is_some(),
        b"models" => again::<ModelLock>(data).map(|lock| models(&lock)).is_some(),
        b"versions" => versions(data),
        b"state" => serde_json::from_slice::<UpstreamState>(data).is_ok_and(|state| {
            assert_eq!(serde_json::from_str::<UpstreamState>(&to_text(&state)).unwrap(), state);
            true
        }),
        _ => false,
    }
}

fn upstream(lock: &UpstreamLock) {
    for (name, image) in &lock.images {
        assert!(!name.is_empty() && !name.contains(is_unprintable), "{name:?}");
        let location = image.location().expect("a lock that was read has locations");
        assert!(!location.to_string().contains(is_unprintable));
        let _ = (image.is_pinned(), image.is_answered(), image.root());
        for platform in image.locked.iter().flat_map(|locked| locked.platforms.values()) {
            let raw = &platform.manifest;
            assert_eq!((Digest::of(raw.raw.as_bytes()), raw.raw.len() as u64), (raw.digest, raw.size), "{name}");
            let manifest = platform.read().expect("a lock that was read has manifests");
            let blobs: BTreeSet<_> = manifest.blobs().map(|blob| blob.digest).collect();
            assert!(blobs.iter().all(|digest| lock.blobs.contains_key(digest)), "{name}: a blob is not in the lock");
            let _ = manifest.total_size();
        }
    }
    for one in windlass::internals::upstream::check::select(lock, &[]).expect("all are there") {
        assert!(lock.images.contains_key(&one));
    }
    drop(versions::export(lock, &UpstreamState::default(), None).to_text());
}

fn models(lock: &ModelLock) {
    for (name, model) in &lock.models {
        stays_inside(Path::new(name));
        let _ = model.size();
        for file in &model.files {
            stays_inside(Path::new(&file.path));
            drop(file.fixed());
            assert!(file.url.as_ref().is_none_or(|url| !url.contains(is_unprintable)), "{:?}", file.url);
        }
    }
}

fn versions(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    let Ok(list) = versions::parse(text) else { return false };
    assert_eq!(versions::parse(&list.to_text()).ok().as_ref(), Some(&list));
    let Ok(wanted) = versions::wanted(&list) else { return true };
    let mut lock = UpstreamLock::default();
    let (platform, path) = ("linux/amd64".parse().unwrap(), Path::new("lock.json"));
    if versions::add(&mut lock, &wanted, &[platform], false).is_ok() {
        assert_eq!(
            parse::<UpstreamLock>(path, to_text(&lock).as_bytes()).ok().as_ref(),
            Some(&lock),
            "what was imported is a lock"
        );
    }
    true
}
