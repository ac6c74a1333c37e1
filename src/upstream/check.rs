//! Whether upstream still says what the lock says.
//!
//! An image that did not change costs one HEAD request, which registries do not count as a pull. For one that did, the new
//! index is fetched once, to say what changes for the platforms of the lock; its manifests only if that is asked for. A
//! registry that limits its clients, or cannot be reached, is left alone for the rest of the run; what was not looked up is
//! *unknown*, or told as an earlier look found it, with its date. For a tag with a version, one more request lists the tags: is there a newer version?

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Registries;
use super::document::{PlatformManifest, UpstreamDocument};
use super::lock::{Locked, LockedImage, UpstreamLock};
use super::newer::{NewerVersion, NewerVersions, newer_versions};
use super::resolve::{ReferenceResolveError, choose, created, fetch, fetch_entry};
use crate::class::{Class, Classified};
use crate::disk::progress::Progress;
use crate::oci::digest::Digest;
use crate::oci::platform::Platform;
use crate::registry::client::{Head, RegistryClient};
use crate::registry::error::RegistryError;
use crate::registry::location::Location;

/// Pulls that are left to all who share the address, when a registry says how many there are.
pub(crate) const RESERVE: u32 = 5;
/// Images that are looked up at the same time.
const WORKERS: usize = 8;

/// How an image stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Status {
    /// Upstream says the same.
    Current,
    /// Upstream says the same, and has a newer version under another tag.
    Newer,
    /// A floating tag names something else.
    Update,
    /// A tag with a version names something else, which such tags do not do by themselves.
    Moved,
    /// Upstream does not have it any more.
    Gone,
    /// Not known: the look-up failed, or was not made.
    Unknown,
    /// It was never locked, or what is asked for was edited since.
    Pending,
}

impl Status {
    /// Whether upstream has something that is not in the lock.
    #[must_use]
    pub(crate) const fn is_update(self) -> bool {
        matches!(self, Self::Newer | Self::Update | Self::Moved | Self::Pending)
    }
}

/// What was found out about an image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ImageFinding {
    pub(crate) name: String,
    /// How it stands.
    pub(crate) status: Status,
    /// What upstream says now.
    pub(crate) found: Option<Digest>,
    /// More about that: why it is unknown, or what is gone.
    pub(crate) why: Option<String>,
    /// What would change, for each platform of the lock; empty where that is not known.
    pub(crate) changes: Vec<PlatformChange>,
    /// Versions that are newer than the one that the tag names; `None` where that is not known.
    pub(crate) newer: Option<NewerVersions>,
    /// Whether no question was asked, because the registry would not have liked another one or the quota is used up.
    pub(crate) skipped: bool,
    /// When that was found out, if it was by an earlier look.
    pub(crate) as_of: Option<Timestamp>,
    /// Why it is unknown, for the exit code.
    #[serde(skip)]
    pub(crate) class: Option<Class>,
}

impl ImageFinding {
    /// Takes down which newer versions there are. A newer major version is one only where that is asked for.
    pub(super) fn is_known(&mut self, newer: NewerVersions, major: bool) {
        if self.status == Status::Current && (newer.minor.is_some() || (major && newer.major.is_some())) {
            self.status = Status::Newer;
        }
        self.newer = Some(newer);
    }
}

/// What would change for a platform.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub(crate) struct PlatformChange {
    pub(crate) platform: Platform,
    pub(crate) kind: ChangeKind,
    /// Bytes of blobs that no image of the lock has; `None` where the manifest was not fetched.
    pub(crate) fetch: Option<u64>,
}

/// How a platform would change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ChangeKind {
    /// Not: the index changed elsewhere.
    Same,
    /// Another image.
    Changed,
    /// There is no image for it any more.
    Missing,
}

/// How to look.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct CheckOptions {
    /// How many requests each registry may get.
    pub(crate) quota: Option<usize>,
    /// Fetch the manifests of platforms that changed, to tell the bytes.
    pub(crate) details: bool,
    /// A newer major version is an update too.
    pub(crate) major: bool,
}

/// Looks up these images, the first ones first when there is a quota. The findings are in the same order.
///
/// # Errors
/// If the job is told to stop, or a reference does not parse.
pub(crate) fn check(
    registries: &Registries,
    lock: &UpstreamLock,
    names: &[String],
    options: CheckOptions,
    progress: &Progress,
) -> Result<Vec<ImageFinding>, ReferenceResolveError> {
    let run = CheckRun { registries, lock, options, hosts: Mutex::default(), progress };
    // A quota is spent in order: on the image that was looked up longest ago first, and on lists of tags last.
    let workers = if options.quota.is_some() { 1 } else { WORKERS.min(names.len()) };
    let findings = in_parallel(workers, names, |name| run.image(name))?;
    in_parallel(workers, &findings, |finding| run.with_newer(finding.clone()))
}

/// Does something with each of these; the results are in the same order.
fn in_parallel<T: Sync, R: Send>(
    workers: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<R, ReferenceResolveError> + Sync,
) -> Result<Vec<R>, ReferenceResolveError> {
    let next = AtomicUsize::new(0);
    let results: Mutex<BTreeMap<usize, Result<R, ReferenceResolveError>>> = Mutex::default();
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while let Some((n, item)) =
                    Some(next.fetch_add(1, Ordering::Relaxed)).and_then(|n| Some((n, items.get(n)?)))
                {
                    let result = work(item);
                    results.lock().unwrap_or_else(PoisonError::into_inner).insert(n, result);
                }
            });
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner).into_values().collect()
}

/// What is known of a registry in this run.
#[derive(Debug, Default)]
struct CheckedRegistry {
    requests: usize,
    /// Why it gets no more, and the class of the error if it was one.
    closed: Option<(String, Option<Class>)>,
}

struct CheckRun<'a> {
    registries: &'a Registries,
    lock: &'a UpstreamLock,
    options: CheckOptions,
    hosts: Mutex<BTreeMap<String, CheckedRegistry>>,
    progress: &'a Progress,
}

/// Why a look-up gave nothing.
enum Miss {
    /// There is no such thing.
    Gone,
    /// It was not asked for, and why.
    Skipped(String),
    /// Anything else, in words.
    Unknown(String, Class),
}

impl CheckRun<'_> {
    fn image(&self, name: &str) -> Result<ImageFinding, ReferenceResolveError> {
        let finding = |status, found, why: Option<String>| ImageFinding {
            name: name.to_owned(),
            status,
            found,
            why,
            changes: Vec::new(),
            newer: None,
            skipped: false,
            as_of: None,
            class: None,
        };
        let Some(image) = self.lock.images.get(name) else {
            return Ok(finding(Status::Unknown, None, Some("there is no image of this name in the lock".to_owned())));
        };
        let at = image.location()?;
        let Some(locked) = &image.locked else {
            return Ok(finding(Status::Pending, None, None));
        };
        if !image.is_answered() {
            let why = "what is asked for was edited since it was locked".to_owned();
            return Ok(finding(Status::Pending, None, Some(why)));
        }
        let found = match self.digest(image, &at, &at.which())? {
            Ok(found) => found,
            Err(Miss::Skipped(why)) => {
                return Ok(ImageFinding { skipped: true, ..finding(Status::Unknown, None, Some(why)) });
            }
            Err(Miss::Unknown(why, class)) => {
                return Ok(ImageFinding { class: Some(class), ..finding(Status::Unknown, None, Some(why)) });
            }
            Err(Miss::Gone) if at.digest().is_some() => {
                return Ok(finding(Status::Gone, None, Some(DIGEST_GONE.into())));
            }
            Err(Miss::Gone) => {
                let why = match self.digest(image, &at, &locked.root.digest.to_string())? {
                    Ok(_) => "the tag is gone; the locked digest is still there",
                    Err(Miss::Gone) => "the tag and the locked digest are gone",
                    Err(Miss::Skipped(_) | Miss::Unknown(..)) => {
                        "the tag is gone; whether the locked digest is there is not known"
                    }
                };
                return Ok(finding(Status::Gone, None, Some(why.to_owned())));
            }
        };
        if found == locked.root.digest {
            return Ok(finding(Status::Current, Some(found), None));
        }
        let gone = matches!(self.digest(image, &at, &locked.root.digest.to_string())?, Err(Miss::Gone));
        let status = match () {
            () if gone => Status::Gone,
            () if image.floating => Status::Update,
            () => Status::Moved,
        };
        let (changes, failed) = match self.changes(image, locked, &at, found)? {
            Ok(changes) => (changes, None),
            // Bytes that are not those of the digest are damage, and nothing to update to.
            Err((why, Some(Class::Unverified))) => {
                let class = Some(Class::Unverified);
                return Ok(ImageFinding { class, ..finding(Status::Unknown, None, Some(why)) });
            }
            Err((why, _)) => (Vec::new(), Some(why)),
        };
        let why = if gone { Some(format!("{DIGEST_GONE}; the tag names another one")) } else { failed };
        Ok(ImageFinding { changes, ..finding(status, Some(found), why) })
    }

    /// The digest that the registry has for a tag or digest.
    fn digest(
        &self,
        image: &LockedImage,
        at: &Location,
        which: &str,
    ) -> Result<Result<Digest, Miss>, ReferenceResolveError> {
        let head = match self.ask(image, at, |client| client.head(at, which, self.progress))? {
            Ok(head) => head,
            Err(miss) => return Ok(Err(miss)),
        };
        self.heed(at, &head);
        match head.digest {
            Some(digest) => Ok(Ok(digest)),
            // A registry that does not tell it has to send it.
            None => Ok(self.ask(image, at, |client| client.manifest(at, which, self.progress))?.map(|raw| raw.digest)),
        }
    }

    /// Makes a request, if the registry may get one.
    fn ask<T>(
        &self,
        image: &LockedImage,
        at: &Location,
        request: impl FnOnce(&RegistryClient) -> Result<T, RegistryError>,
    ) -> Result<Result<T, Miss>, ReferenceResolveError> {
        if let Err(miss) = self.admit(at) {
            return Ok(Err(miss));
        }
        match request(self.registries.client(image.insecure)) {
            Ok(answer) => Ok(Ok(answer)),
            Err(error @ RegistryError::Stopped { .. }) => Err(error.into()),
            Err(error) if error.is_gone() => Ok(Err(Miss::Gone)),
            Err(error) => {
                let (why, class) = (error.to_string(), error.class());
                // The next image of this registry would get the same answer, after the same wait.
                if matches!(
                    error,
                    RegistryError::RateLimited { .. }
                        | RegistryError::Unreachable { .. }
                        | RegistryError::Tls { .. }
                        | RegistryError::PlainHttp { .. }
                ) {
                    self.close(at, why.clone(), Some(class));
                }
                Ok(Err(Miss::Unknown(why, class)))
            }
        }
    }

    fn admit(&self, at: &Location) -> Result<(), Miss> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let host = hosts.entry(at.host().to_owned()).or_default();
        match &host.closed {
            Some((why, Some(class))) => return Err(Miss::Unknown(why.clone(), *class)),
            Some((why, None)) => return Err(Miss::Skipped(why.clone())),
            None => {}
        }
        if let Some(quota) = self.options.quota
            && host.requests >= quota
        {
            let why = format!("not looked up: the quota of {quota} for {} is used up", at.host());
            return Err(Miss::Skipped(why));
        }
        host.requests += 1;
        Ok(())
    }

    fn heed(&self, at: &Location, head: &Head) {
        if let Some(remaining) = head.remaining.filter(|&remaining| remaining <= RESERVE) {
            self.close(
                at,
                format!("not looked up: {} allows {remaining} more pulls, which are left for pulls", at.host()),
                None,
            );
        }
    }

    fn close(&self, at: &Location, why: String, class: Option<Class>) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.entry(at.host().to_owned()).or_default().closed.get_or_insert((why, class));
    }

    /// What taking the new digest would change. Not to know that changes no status.
    fn changes(
        &self,
        image: &LockedImage,
        locked: &Locked,
        at: &Location,
        found: Digest,
    ) -> Result<Result<Vec<PlatformChange>, Missed>, ReferenceResolveError> {
        if let Err(Miss::Skipped(why) | Miss::Unknown(why, _)) = self.admit(at) {
            return Ok(Err((why, None)));
        }
        let client = self.registries.client(image.insecure);
        let (_, document) = match fetch(client, at, &found.to_string(), self.progress) {
            Ok(fetched) => fetched,
            Err(error) => return unless_stopped(error).map(Err),
        };
        let mut changes = Vec::new();
        for (platform, old) in &locked.platforms {
            let change = |kind, fetch| PlatformChange { platform: platform.clone(), kind, fetch };
            let entries = match &document {
                UpstreamDocument::Index(entries) => entries,
                UpstreamDocument::Manifest(manifest) => {
                    changes.push(change(ChangeKind::Changed, Some(self.delta(manifest))));
                    continue;
                }
            };
            changes.push(match choose(entries, platform, at) {
                Err(_) => change(ChangeKind::Missing, None),
                Ok(entry) if entry.digest == old.manifest.digest => change(ChangeKind::Same, Some(0)),
                Ok(_) if !self.options.details || self.admit(at).is_err() => change(ChangeKind::Changed, None),
                Ok(entry) => match fetch_entry(client, at, entry, self.progress) {
                    Ok((_, manifest)) => change(ChangeKind::Changed, Some(self.delta(&manifest))),
                    Err(error) => return unless_stopped(error).map(Err),
                },
            });
        }
        Ok(Ok(changes))
    }

    /// Adds the versions beside that of a tag, where it has one.
    fn with_newer(&self, mut finding: ImageFinding) -> Result<ImageFinding, ReferenceResolveError> {
        let image = self.lock.images.get(&finding.name);
        let asked = matches!(finding.status, Status::Current | Status::Update | Status::Moved);
        let Some((image, locked)) = image.and_then(|image| Some((image, image.locked.as_ref()?))).filter(|_| asked)
        else {
            return Ok(finding);
        };
        let at = image.location()?;
        let Some(tag) = at.tag().filter(|_| !image.floating && at.digest().is_none()) else { return Ok(finding) };
        let tags = match self.ask(image, &at, |client| client.tags(&at, self.progress))? {
            Ok(tags) => tags,
            // There are registries that list nothing. Not to know changes no status.
            Err(Miss::Gone) => Vec::new(),
            Err(Miss::Skipped(why) | Miss::Unknown(why, _)) => {
                finding.why.get_or_insert(format!("newer versions are not known: {why}"));
                return Ok(finding);
            }
        };
        let mut newer = newer_versions(tag, tags.iter().map(String::as_str));
        if self.options.details
            && let Some(platform) = locked.platforms.keys().next()
        {
            for version in [&mut newer.minor, &mut newer.major].into_iter().flatten() {
                self.date(version, image, &at, platform)?;
            }
        }
        finding.is_known(newer, self.options.major);
        Ok(finding)
    }

    /// Finds out when a version was made, if the registry may be asked; it stays unknown otherwise.
    fn date(
        &self,
        version: &mut NewerVersion,
        image: &LockedImage,
        at: &Location,
        platform: &Platform,
    ) -> Result<(), ReferenceResolveError> {
        if self.admit(at).is_err() {
            return Ok(());
        }
        let client = self.registries.client(image.insecure);
        match created(client, at, &version.tag, platform, self.progress) {
            Ok(created) => version.created = created,
            Err(error) => drop(unless_stopped(error)?),
        }
        Ok(())
    }

    /// Bytes of the blobs that no image of the lock has.
    fn delta(&self, manifest: &PlatformManifest) -> u64 {
        let new: BTreeSet<(Digest, u64)> = manifest.blobs().map(|blob| (blob.digest, blob.size)).collect();
        new.iter().filter(|(digest, _)| !self.lock.blobs.contains_key(digest)).map(|(_, size)| size).sum()
    }
}

const DIGEST_GONE: &str = "the locked digest is gone";

/// Why changes are not known, and the class of the error if it was one.
type Missed = (String, Option<Class>);

fn unless_stopped(error: ReferenceResolveError) -> Result<Missed, ReferenceResolveError> {
    match error {
        ReferenceResolveError::Registry(RegistryError::Stopped { .. }) => Err(error),
        error => Ok((error.to_string(), Some(error.class()))),
    }
}

/// The names to look up: those that were never looked up, then those whose last look is longest ago.
///
/// # Errors
/// If a name is not in the lock.
pub(crate) fn order(
    lock: &UpstreamLock,
    asked: &[String],
    last: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>, String> {
    let mut names: Vec<String> = select(lock, asked)?;
    names.sort_by_cached_key(|name| (last(name), name.clone()));
    Ok(names)
}

/// The images that are asked for, all if none is.
///
/// # Errors
/// With the name that is not in the lock.
pub fn select(lock: &UpstreamLock, asked: &[String]) -> Result<Vec<String>, String> {
    if let Some(unknown) = asked.iter().find(|name| !lock.images.contains_key(*name)) {
        return Err(unknown.clone());
    }
    Ok(lock.images.keys().filter(|name| asked.is_empty() || asked.contains(name)).cloned().collect())
}
