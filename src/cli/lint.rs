//! `windlass lint`

use std::path::{Path, PathBuf};

use serde::Serialize;

use super::failure::{Context, Result, failed, usage};
use super::printer::{Printer, count};
use crate::compose::import::ImportOptions;
use crate::compose::read::images::images;
use crate::disk::bounded::{self, Cap};
use crate::model::pin::lock as models;
use crate::upstream::file;
use crate::upstream::lock::is_floating;
use crate::upstream::versions::full;

const EXAMPLE: &str = "Examples:
  windlass lint                                     images.lock.json and models.lock.json here
  windlass lint nix/images.lock.json docker-compose.yml
  windlass lint --json

It ends with 1 if there is a problem, and opens no connection: it is for CI, before anything is built.";

/// Look for names in locks and compose files that may mean something else tomorrow.
///
/// A lock is read whole, and all that it says is checked against the bytes in it. Then it is an error if an image or a model
/// is floating (its tag or branch names no version), if it was never locked, and if a compose file names an image without
/// a version. The locks themselves do not float: what they have is built, whatever the names lead to by then.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct LintArgs {
    /// Locks and compose files. By default images.lock.json and models.lock.json, as far as they are here.
    #[arg(value_name = "FILE")]
    files: Vec<PathBuf>,
    /// This name may float. Repeatable.
    #[arg(long, value_name = "NAME")]
    allow: Vec<String>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct LintReport {
    /// How many names were looked at.
    checked: usize,
    problems: Vec<LintProblem>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
struct LintProblem {
    file: PathBuf,
    /// An image, a model or a service.
    name: String,
    /// `floating` or `pending`.
    kind: &'static str,
    message: String,
}

/// A name in a file, and what is wrong with it.
type CheckedName = (String, Option<(&'static str, String)>);

pub(super) fn run(args: &LintArgs, printer: &Printer) -> Result<()> {
    let files = match args.files.as_slice() {
        [] => ["images.lock.json", "models.lock.json"]
            .map(PathBuf::from)
            .into_iter()
            .filter(|file| file.exists())
            .collect(),
        files => files.to_vec(),
    };
    if files.is_empty() {
        return Err(usage("there is neither images.lock.json nor models.lock.json here; name the files to look at"));
    }
    let (mut checked, mut problems) = (0, Vec::new());
    for file in files {
        for (name, problem) in look(&file)? {
            checked += 1;
            if let Some((kind, message)) = problem.filter(|_| !args.allow.contains(&name)) {
                problems.push(LintProblem { file: file.clone(), name, kind, message });
            }
        }
    }
    let found = problems.len();
    if printer.json() {
        printer.value(&LintReport { checked, problems })?;
    } else {
        for LintProblem { file, name, message, .. } in &problems {
            printer.line(format!("{}: {name} {message}", file.display()))?;
        }
        printer.line(format!("{} checked, {}", count(checked, "name"), count(found, "problem")))?;
    }
    if found > 0 {
        return Err(failed(format!("{} found", count(found, "problem"))));
    }
    Ok(())
}

fn look(path: &Path) -> Result<Vec<CheckedName>> {
    let bytes = bounded::read(path, Cap::Document).with_context(|| format!("read {}", path.display()))?;
    let top = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
    let has = |key: &str| top.as_ref().is_some_and(|top| top.get(key).is_some());
    match () {
        () if has("models") && !has("services") => of_models(path),
        () if has("images") && !has("services") => of_images(path),
        () => of_compose(path),
    }
}

fn of_images(path: &Path) -> Result<Vec<CheckedName>> {
    let lock = file::read(path)?;
    let check = |(name, image): (String, crate::upstream::lock::LockedImage)| {
        let problem = match () {
            () if image.locked.is_none() => {
                Some(("pending", format!("was never looked up; windlass upstream update --image {name}")))
            }
            () if image.floating => Some((
                "floating",
                format!(
                    "is {}, a tag without a version: add it with one (windlass upstream add --replace {name} …), or allow it with --allow {name}",
                    image.original.reference
                ),
            )),
            () => None,
        };
        (name, problem)
    };
    Ok(lock.images.into_iter().map(check).collect())
}

fn of_models(path: &Path) -> Result<Vec<CheckedName>> {
    let lock = models::read(path)?;
    let check = |(name, model): (String, models::LockedModel)| {
        let problem = model.source.floating.then(|| {
            let commit = model.source.revision.as_deref().unwrap_or("COMMIT");
            let message = format!(
                "is {}, which may be another file tomorrow: name its commit, as hf:ORG/REPO@{commit}/FILE, or allow it with --allow {name}",
                model.source.reference
            );
            ("floating", message)
        });
        (name, problem)
    };
    Ok(lock.models.into_iter().map(check).collect())
}

fn of_compose(path: &Path) -> Result<Vec<CheckedName>> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let directory = parent.canonicalize().with_context(|| format!("open {}", parent.display()))?;
    let services = images(&ImportOptions { file: path.to_owned(), directory, ..ImportOptions::default() })?;
    let check = |service: crate::compose::read::images::ServiceImage| {
        // What is built has no name that floats.
        let reference = service.image.as_deref().unwrap_or_default();
        let floats = full(reference).is_ok_and(|at| at.digest().is_none() && is_floating(&at));
        let message =
            || format!("has the image {reference}, without a version: give it a tag that has one, or a digest");
        (service.service, (service.image.is_some() && floats).then(|| ("floating", message())))
    };
    Ok(services.into_iter().map(check).collect())
}
