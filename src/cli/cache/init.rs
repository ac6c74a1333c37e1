//! `windlass cache init`

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::ProjectArgs;
use crate::cache::bases::lock_of;
use crate::cache::containerfile::Containerfile;
use crate::cache::definition::{CacheProject, CachedImage, FILE, define};
use crate::cache::{devcontainer, not_of_another};
use crate::cli::failure::{Context, Result, usage};
use crate::cli::printer::Printer;
use crate::cli::session::Session;
use crate::disk::bounded::{self, Cap};
use crate::names::Name;
use crate::oci::platform::Platform;
use crate::oci::reference::Reference;
use crate::registry::location::Location;

const EXAMPLE: &str = "Examples:
  windlass cache init unit                                          ./Containerfile or ./Dockerfile
  windlass cache init unit --containerfile test/Dockerfile --build-arg PYTHON=3.12
  windlass cache init dev --devcontainer .devcontainer/devcontainer.json";

/// Write into `windlass-cache.json` what an image is built from; nothing is built yet.
///
/// The file is made if it is not there, and edited by hand like any other. It goes into version control.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct CacheInitArgs {
    /// What the image is called here.
    name: String,
    /// The Containerfile. [default: Containerfile or Dockerfile in the context]
    #[arg(long, value_name = "FILE", conflicts_with = "devcontainer")]
    containerfile: Option<PathBuf>,
    /// The folder that it copies from. [default: the project]
    #[arg(long, value_name = "DIR", conflicts_with = "devcontainer")]
    context: Option<PathBuf>,
    /// Take Containerfile, context, stage and arguments from the build section of a devcontainer.json.
    #[arg(long, value_name = "FILE")]
    devcontainer: Option<PathBuf>,
    /// The stage to build. [default: the last]
    #[arg(long, value_name = "STAGE")]
    target: Option<String>,
    /// A build argument. Repeatable. No secrets: these are for --secret.
    #[arg(long, value_name = "NAME=VALUE")]
    build_arg: Vec<String>,
    /// A secret of the build: `id=ID,env=VARIABLE` or `id=ID,src=FILE`. Repeatable.
    #[arg(long, value_name = "SECRET")]
    secret: Vec<String>,
    /// What to build it for. [default: the host]
    #[arg(long, value_name = "PLATFORM")]
    platform: Option<Platform>,
    /// Name and tag of what is built. [default: localhost/NAME:cache]
    #[arg(long, value_name = "REFERENCE")]
    tag: Option<String>,
    /// Only say what would be written.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    project: ProjectArgs,
}

/// What was written, or would be.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct CacheInitReport {
    dry_run: bool,
    file: PathBuf,
    name: Name,
    image: Reference,
    containerfile: PathBuf,
    context: PathBuf,
    /// Whether the file was changed.
    changed: bool,
    /// Base images that can be another image tomorrow.
    floating: Vec<String>,
}

pub(super) fn run(args: &CacheInitArgs, printer: &Printer, session: &Session) -> Result<()> {
    let name = Name::new(&args.name)?;
    let root = match CacheProject::find(&args.project.project) {
        Ok(project) => project.root,
        Err(_) => args.project.project.canonicalize().context(args.project.project.display())?,
    };
    not_of_another(&root)?;
    let image = image(args, &root)?;
    let reference = image.reference(&name).map_err(usage)?;
    let floating = floating(&root, &image)?;
    let file = root.join(FILE);
    let (containerfile, context) = (image.containerfile.clone(), image.context.clone());
    let changed = define(&root, name.clone(), image, args.dry_run, session.progress())?;
    for base in &floating {
        printer.note(format!(
            "warning: FROM {base} can be another image tomorrow; pin it: `windlass upstream add {} {base}`, or {base}@sha256:…",
            short(base)
        ));
    }
    let dry_run = args.dry_run;
    if printer.json() {
        return printer.value(&CacheInitReport {
            dry_run,
            file,
            name,
            image: reference,
            containerfile,
            context,
            changed,
            floating,
        });
    }
    let verb = match (changed, dry_run) {
        (false, _) => "has already",
        (true, false) => "has now",
        (true, true) => "would have",
    };
    let (containerfile, context) = (containerfile.display(), context.display());
    printer.line(format!("{} {verb} {name}: {containerfile} over {context} as {reference}", file.display()))
}

fn image(args: &CacheInitArgs, root: &Path) -> Result<CachedImage> {
    let below = |path: &Path| -> Result<PathBuf> {
        let real = path.canonicalize().context(path.display())?;
        let inside = real.strip_prefix(root).map(Path::to_owned);
        let inside = inside.map_err(|_| usage(format!("{} is not below {}", path.display(), root.display())))?;
        Ok(if inside.as_os_str().is_empty() { PathBuf::from(".") } else { inside })
    };
    let mut image = match &args.devcontainer {
        Some(file) => devcontainer::read(file, root)?,
        None => {
            let context = args.context.clone().unwrap_or_else(|| args.project.project.clone());
            let usual =
                || ["Containerfile", "Dockerfile"].map(|name| context.join(name)).into_iter().find(|f| f.is_file());
            let file = args.containerfile.clone().or_else(usual);
            let missing =
                || usage(format!("{} has no Containerfile and no Dockerfile; give --containerfile", context.display()));
            CachedImage::new(below(&file.ok_or_else(missing)?)?, below(&context)?)
        }
    };
    let pairs = |words: &[String], what: &str| -> Result<BTreeMap<String, String>> {
        let pair = |word: &String| {
            let parts = word.split_once('=').filter(|(name, _)| !name.is_empty());
            // The value may be a secret.
            let parts = parts.ok_or_else(|| usage(format!("{what}: expected NAME=VALUE")))?;
            Ok((parts.0.to_owned(), parts.1.to_owned()))
        };
        words.iter().map(pair).collect()
    };
    image.arguments.extend(pairs(&args.build_arg, "--build-arg")?);
    for word in &args.secret {
        let parts = word.strip_prefix("id=").and_then(|rest| rest.split_once(','));
        let (id, source) = parts.ok_or_else(|| usage("--secret: expected id=ID,env=VARIABLE or id=ID,src=FILE"))?;
        image.secrets.insert(id.to_owned(), source.to_owned());
    }
    image.target = args.target.clone().or(image.target);
    image.platform = args.platform.clone().or(image.platform);
    image.image = args.tag.clone().or(image.image);
    Ok(image)
}

/// Base images that neither the Containerfile nor the lock pins.
fn floating(root: &Path, image: &CachedImage) -> Result<Vec<String>> {
    let path = root.join(&image.containerfile);
    let text = bounded::text(&path, Cap::Settings).with_context(|| path.display().to_string())?;
    let others = image.contexts.keys().cloned().collect();
    let parsed = Containerfile::parse(&text, &image.arguments, &others, &image.platform());
    let parsed = parsed.map_err(|message| usage(format!("{}: {message}", path.display())))?;
    let lock = lock_of(root)?;
    let is_pinned = |name: &String| {
        let Ok(location) = name.parse::<Location>() else { return true };
        let locked = || {
            lock.iter().flat_map(|lock| lock.images.values()).any(|image| image.location().as_ref() == Ok(&location))
        };
        location.host() == "localhost" || location.digest().is_some() || locked()
    };
    Ok(parsed.images.into_iter().filter(|name| !is_pinned(name)).collect())
}

/// `python` for `docker.io/library/python:3.12`.
fn short(base: &str) -> &str {
    let name = base.rsplit('/').next().unwrap_or(base);
    name.split([':', '@']).next().unwrap_or(name)
}
