//! Whether the sources of locked models still have what the lock says: the same question as for images, with the same answers.

use std::io;

use super::check::{ImageFinding, Status};
use crate::class::{Class, Classified};
use crate::disk::progress::Progress;
use crate::model::pin::hub::{Hub, HubError};
use crate::model::pin::lock::{LockedModel, ModelLock};
use crate::model::pin::resolve::{Candidate, ResolvedSource, SourceResolveError, resolve};
use crate::registry::error::RegistryError;

/// Looks up these models of a lock. Lists of files are read, and no file is downloaded.
///
/// # Errors
/// If the job is told to stop; whatever else goes wrong is in the finding of its model.
pub(crate) fn check_models(
    hub: Hub<'_>,
    lock: &ModelLock,
    names: &[String],
    progress: &Progress,
) -> Result<Vec<ImageFinding>, SourceResolveError> {
    let mut findings = Vec::new();
    for (name, model) in names.iter().filter_map(|name| Some((name, lock.models.get(name)?))) {
        findings.push(match resolve(&model.source.reference, &model.source.files, hub, progress) {
            Ok(resolved) => found(name, model, &resolved),
            Err(error) if error.class() == Class::Stopped => return Err(error),
            Err(error) => failed(name, &error),
        });
    }
    Ok(findings)
}

fn found(name: &str, model: &LockedModel, resolved: &ResolvedSource) -> ImageFinding {
    let (commit, before) = (&resolved.source.revision, &model.source.revision);
    if commit.is_some() && commit == before {
        return finding(name, Status::Current, None);
    }
    match (difference(model, resolved), commit) {
        (Some(why), None) if !model.source.floating => finding(name, Status::Moved, Some(why)),
        (Some(why), _) => finding(name, Status::Update, Some(why)),
        // Its large files are the same; small ones are known once they are downloaded.
        (None, Some(commit)) if resolved.files.iter().any(|file| file.digest.is_none()) => {
            finding(name, Status::Update, Some(format!("its branch is at the commit {commit}")))
        }
        (None, Some(commit)) => finding(name, Status::Current, Some(format!("the same files at the commit {commit}"))),
        (None, None) => finding(name, Status::Current, Some("its size is the same, and no digest is told".to_owned())),
    }
}

/// How the files of the source differ from those of the lock.
fn difference(model: &LockedModel, resolved: &ResolvedSource) -> Option<String> {
    let changed = |file: &Candidate| {
        let Some(locked) = model.files.iter().find(|locked| locked.path == file.path) else {
            return Some(format!("{} is new", file.path));
        };
        let is_same = match (file.digest, file.size) {
            (Some(digest), _) => digest == locked.sha256,
            (None, size) => size.is_none_or(|size| size == locked.size),
        };
        (!is_same).then(|| format!("{} is another file", file.path))
    };
    let gone = || {
        let is_there = |path: &String| resolved.files.iter().any(|file| file.path == *path);
        let lost = model.files.iter().find(|locked| !is_there(&locked.path))?;
        Some(format!("{} is not there any more", lost.path))
    };
    resolved.files.iter().find_map(changed).or_else(gone)
}

fn failed(name: &str, error: &SourceResolveError) -> ImageFinding {
    let status = match error {
        SourceResolveError::Hub(HubError::Missing { .. } | HubError::Registry(RegistryError::NotFound { .. }))
        | SourceResolveError::Registry(RegistryError::NotFound { .. })
        | SourceResolveError::NoFile { .. } => Status::Gone,
        SourceResolveError::Read { source, .. } if source.kind() == io::ErrorKind::NotFound => Status::Gone,
        _ => Status::Unknown,
    };
    let class = if status == Status::Gone { Class::Failed } else { error.class() };
    ImageFinding { class: Some(class), ..finding(name, status, Some(error.to_string())) }
}

fn finding(name: &str, status: Status, why: Option<String>) -> ImageFinding {
    let name = name.to_owned();
    ImageFinding {
        name,
        status,
        found: None,
        why,
        changes: Vec::new(),
        newer: None,
        skipped: false,
        as_of: None,
        class: None,
    }
}
