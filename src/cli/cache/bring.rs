//! From a key to an image in Podman: it is there, or loaded from its entry, or built and kept.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::Path;

use super::CacheRoom;
use super::report::{CacheAction, CacheRow};
use crate::cache::definition::CachedImage;
use crate::cache::entries::{CacheEntry, EntryPresence};
use crate::cache::look::CacheLook;
use crate::cache::store::{CacheChange, weights};
use crate::class::Classified;
use crate::cli::failure::{Failure, Result, failed, no_space, usage};
use crate::cli::into::HostEngine as _;
use crate::cli::printer::{Printer, size};
use crate::cli::session::Session;
use crate::disk::files::free_space;
use crate::disk::progress::Progress;
use crate::engine::load::load;
use crate::engine::process::{run, run_shown};
use crate::engine::target::{LoadOptions, LoadTarget, LoadVia};
use crate::names::Name;
use crate::podman::storage::records::StoredImage;
use crate::podman::storage::snapshot::StoreSnapshot;

/// The label by which an image says what it was built from.
const LABEL: &str = "windlass.cache.key";
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// How an image is brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BringMode {
    /// From its entry, or else built.
    Update,
    /// From its entry, or not at all.
    Load,
    /// Built in any case; perhaps without the layers that Podman has of earlier builds.
    Build { fresh: bool },
}

/// One image of a project that is being brought.
pub(super) struct Bringing<'a> {
    pub(super) room: &'a CacheRoom,
    pub(super) image: (&'a Name, &'a CachedImage),
    pub(super) mode: BringMode,
    /// Whether weights may be kept.
    pub(super) yes: bool,
    pub(super) dry_run: bool,
    pub(super) printer: &'a Printer,
    pub(super) session: &'a Session,
}

impl Bringing<'_> {
    /// Brings it; what was done, with the entry that it has now.
    pub(super) fn bring(&self) -> Result<CacheRow> {
        let (progress, name) = (self.session.progress(), self.image.0);
        let snapshot = self.room.snapshot(progress)?;
        let look = self.room.look(self.image, &snapshot, progress)?;
        let mut row = CacheRow::new(name, &look, look.changes(&snapshot)?)?;
        let is_build = matches!(self.mode, BringMode::Build { .. });
        row.action = if is_build { CacheAction::Build } else { row.due() };
        if row.action == CacheAction::Build && self.mode == BringMode::Load {
            let what = match look.entries.len() {
                0 => "it has no entry yet".to_owned(),
                _ => "no entry has its key: what it is built from has changed".to_owned(),
            };
            return Err(failed(format!("{name}: {what}")).hint(format!("`windlass cache build {name}` builds it")));
        }
        let entry = look.entry.as_ref().filter(|_| !is_build);
        if let Some(entry) = entry.filter(|entry| entry.presence(&snapshot) != EntryPresence::Present) {
            if self.dry_run {
                return Ok(row);
            }
            match self.load(entry) {
                Ok(()) => return Ok(row),
                Err(failure) => {
                    // What is whole does not load better after a build.
                    let Err(damage) = entry.check(true, progress) else { return Err(failure) };
                    if self.mode == BringMode::Load {
                        let hint = format!("`windlass cache update {name}` builds it again");
                        return Err(Failure::from(damage).hint(hint));
                    }
                    self.printer.note(format!("warning: {damage}; it is built again"));
                    row.problems.push(damage.to_string());
                    row.action = CacheAction::Build;
                }
            }
        }
        if row.action == CacheAction::Build {
            self.refuse_weights(&look.weights, "the context")?;
            let pinned = look.pinned()?;
            if !self.dry_run {
                let entry = self.build(&look, &pinned)?;
                (row.entry, row.digest) = (Some(entry.path), Some(entry.facts.digest));
            }
        }
        Ok(row)
    }

    /// Loads an entry: as any bundle, so that it belongs to a generation.
    fn load(&self, entry: &CacheEntry) -> Result<()> {
        let progress = self.session.progress();
        let image = entry.image(progress)?;
        let origins = BTreeSet::from([format!("cache of {}", self.image.0)]);
        let target = LoadTarget { name: image.summary().name.file_name(), image, origins };
        let options = LoadOptions { via: LoadVia::Auto, force: false, partial: true };
        let host = &self.room.host;
        let drawing = self.session.draw("loading");
        let loaded = load(host, &[target], options, &mut |_| {}, progress)?;
        drop(drawing);
        loaded.warnings.iter().for_each(|warning| self.printer.note(format!("warning: {warning}")));
        match loaded.outcomes.into_iter().find_map(|outcome| outcome.error) {
            Some(error) => Err(host.does_not_fit(error, progress)),
            None => Ok(()),
        }
    }

    fn build(&self, look: &CacheLook, pinned: &[(String, String)]) -> Result<CacheEntry> {
        let (name, progress) = (self.image.0, self.session.progress());
        crate::cache::not_of_another(&self.room.project.root)?;
        if look.containerfile.runs {
            self.printer.note(format!("{name}: what RUN and ADD fetch is not a part of the key"));
        }
        let rules = self.rules(look)?;
        let mut command = self.command(look, pinned, rules.path())?;
        let step = progress.step(format!("podman builds {name}"));
        let drawing = self.session.draw("building");
        let ended = if crate::cli::printer::is_quiet() {
            let outcome = run("podman", &mut command, progress)?;
            let said = outcome.sentence();
            (outcome.code(), format!(": {said}"))
        } else {
            (run_shown("podman", &mut command, progress)?, "; what it said is above".to_owned())
        };
        drop((drawing, step));
        match ended {
            (Some(0), _) => {}
            (Some(code), said) => return Err(failed(format!("{name}: podman build ended with {code}{said}"))),
            (None, said) => return Err(failed(format!("{name}: podman build was ended by a signal{said}"))),
        }
        // What changed meanwhile may be in the image, or not.
        let snapshot = self.room.snapshot(progress)?;
        if self.room.look(self.image, &snapshot, progress)?.key != look.key {
            return Err(failed(format!("{name}: what it is built from changed during the build; nothing was kept"))
                .hint("build it again"));
        }
        let entry = self.keep(look, &snapshot)?;
        self.load(&entry)?;
        Ok(entry)
    }

    /// The rules for the build, in a file.
    fn rules(&self, look: &CacheLook) -> Result<tempfile::NamedTempFile> {
        let mut file = tempfile::Builder::new().prefix("windlass-ignore-").tempfile()?;
        file.write_all(look.rules.as_bytes())?;
        Ok(file)
    }

    fn command(&self, look: &CacheLook, pinned: &[(String, String)], rules: &Path) -> Result<std::process::Command> {
        let (_, image) = self.image;
        let root = &self.room.project.root;
        let mut command = self.room.host.engine.podman("build images")?.command("podman");
        command.current_dir(root).args(["build", "--pull=never", "--file"]).arg(root.join(&image.containerfile));
        command.arg("--ignorefile").arg(rules).args(["--tag", &look.inputs.image]);
        command.arg(format!("--timestamp={}", look.inputs.timestamp)).arg(format!("--label={LABEL}={}", look.key));
        for (name, id) in pinned {
            command.arg(format!("--build-context={name}=container-image://{id}"));
        }
        for (name, place) in image.contexts.iter().filter(|(_, place)| !place.contains("://")) {
            command.arg(format!("--build-context={name}={}", root.join(place).display()));
        }
        command.args(image.target.iter().map(|target| format!("--target={target}")));
        command.args(image.platform.iter().map(|platform| format!("--platform={platform}")));
        command.args(image.arguments.iter().map(|(name, value)| format!("--build-arg={name}={value}")));
        if look.containerfile.declares(EPOCH) && !image.arguments.contains_key(EPOCH) {
            command.arg(format!("--build-arg={EPOCH}={}", look.inputs.timestamp));
        }
        command.args(image.secrets.iter().map(|(id, source)| format!("--secret=id={id},{source}")));
        if self.mode == (BringMode::Build { fresh: true }) {
            command.arg("--no-cache");
        }
        command.arg(root.join(&image.context));
        Ok(command)
    }

    /// Keeps the image that the name leads to under the key.
    pub(super) fn keep(&self, look: &CacheLook, snapshot: &StoreSnapshot) -> Result<CacheEntry> {
        let (name, progress) = (self.image.0, self.session.progress());
        let stored = self.stored(look, snapshot)?;
        let folder = self.room.project.folder();
        let change = CacheChange::begin(&folder, progress)?;
        let (needed, free) = (bytes(snapshot, stored), free_space(&folder)?);
        if needed > free {
            let message =
                format!("{name}: the image has {}, and {} are free in {}", size(needed), size(free), folder.display());
            return Err(no_space(message).hint("`windlass cache prune --apply` removes old entries"));
        }
        let incoming = change.incoming()?;
        let layout = incoming.path().join("image");
        let drawing = self.session.draw("saving");
        let mut save = self.room.host.engine.podman("save images")?.command("podman");
        save.args(["save", "--quiet", "--uncompressed", "--format=oci-dir", "--output"]).arg(&layout).arg(&stored.id);
        let action = format!("save {}", look.inputs.image);
        run("podman", &mut save, progress)?.ok("podman", &action, "see whether `podman info` works")?;
        self.refuse_weights(&weights(&layout, progress)?, "the image")?;
        let entry = change.keep(name, &look.inputs, &layout, now(), progress)?;
        drop(drawing);
        Ok(entry)
    }

    /// The image that the name leads to, if it says that it was built from these inputs.
    pub(super) fn stored<'s>(&self, look: &CacheLook, snapshot: &'s StoreSnapshot) -> Result<&'s StoredImage> {
        let (name, reference) = (self.image.0, &look.inputs.image);
        let build = format!("`windlass cache build {name}` builds it");
        let Some((store, stored)) = snapshot.called(reference) else {
            return Err(failed(format!("{name}: Podman has no image {reference}")).hint(build));
        };
        let config = store.big_data(&stored.id, &format!("sha256:{}", stored.id));
        let config = crate::disk::bounded::read(&config, crate::disk::bounded::Cap::Config).unwrap_or_default();
        let config: serde_json::Value = serde_json::from_slice(&config).unwrap_or_default();
        let key = config["config"]["Labels"][LABEL].as_str();
        if key == Some(&look.key.to_string()) || self.yes {
            return Ok(stored);
        }
        let message = match key {
            Some(_) => format!("{name}: {reference} was built from something else than what is here now"),
            None => format!("{name}: {reference} does not say what it was built from"),
        };
        Err(failed(message).hint(format!("{build}; --yes saves it as it is")))
    }

    fn refuse_weights(&self, weights: &[(String, u64)], place: &str) -> Result<()> {
        let Some((first, _)) = weights.first().filter(|_| !self.yes) else { return Ok(()) };
        let bytes = weights.iter().map(|(_, size)| size).sum();
        let more = if weights.len() > 1 { format!(" and {} more", weights.len() - 1) } else { String::new() };
        let message = format!("{}: {place} has weights of models, {}: {first}{more}", self.image.0, size(bytes));
        Err(usage(message).hint(
            "every change would put them into version control again: leave them out with a rule and mount them, or give --yes",
        ))
    }
}

/// Bytes of all layers of an image.
fn bytes(snapshot: &StoreSnapshot, image: &StoredImage) -> u64 {
    let layers = snapshot.stores.iter().flat_map(|store| store.chain(&image.layer).map(move |id| (store, id)));
    layers.filter_map(|(store, id)| store.layers.get(id)).map(|layer| layer.diff_size).sum()
}

/// The one clock of these verbs: entries are told apart by when they were kept.
fn now() -> i64 {
    jiff::Timestamp::now().as_second()
}

/// The progress of a session, for what only reads.
pub(super) fn reads(progress: &Progress) -> Result<()> {
    progress.check().map_err(|error| Failure::new(error.class(), error.to_string()))
}
