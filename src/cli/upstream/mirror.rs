//! `windlass upstream mirror`

use std::collections::BTreeMap;

use serde::Serialize;

use super::super::failure::{Result, several, usage};
use super::super::host::nix_places;
use super::super::printer::{Printer, count, size};
use super::super::session::Session;
use super::{LockArgs, RegistryArgs, StateArgs, home, now};
use crate::class::Classified;
use crate::cli::complete;
use crate::registry::location::Location;
use crate::upstream::fetch::Selection;
use crate::upstream::file::{self, UpstreamLockChange};
use crate::upstream::lock::UpstreamSource;
use crate::upstream::mirror::{Mirror, MirrorTarget, Mirrored};
use crate::upstream::nix::BlobStore;

const EXAMPLE: &str = "Examples:
  windlass upstream mirror --to /srv/images                 skopeo copy oci:/srv/images:qdrant …
  windlass upstream mirror --to docker://registry.lan/m --set-source
  nix build --option hashed-mirrors file:///srv/images/blobs   builds that fetch nothing from upstream";

/// Copy what the lock has to a directory or to a registry of one's own.
///
/// A directory becomes an OCI layout whose `blobs` Nix takes for one of its hashed mirrors. Everything is copied byte for
/// byte and verified; what is there stays. Blobs come from the Nix store if it has them, else from upstream.
#[derive(Debug, clap::Args)]
#[command(after_long_help = EXAMPLE)]
pub(super) struct UpstreamMirrorArgs {
    /// The mirror: a directory, or `docker://REGISTRY/PREFIX`.
    #[arg(long, value_name = "DIR|docker://REGISTRY/PREFIX")]
    to: String,
    /// Only this image. Repeatable.
    #[arg(add = complete::locked_images(), long = "image", value_name = "NAME")]
    images: Vec<String>,
    /// Say in the lock that these images are fetched from the mirror from now on.
    #[arg(long)]
    set_source: bool,
    /// The registry that is the mirror speaks plain HTTP; on this machine only.
    #[arg(long)]
    insecure: bool,
    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    lock: LockArgs,
    #[command(flatten)]
    state: StateArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct UpstreamMirrorRow {
    mirror: String,
    written: usize,
    present: usize,
    /// Bytes of blobs that came from upstream.
    fetched: u64,
    /// Bytes of blobs that went to the registry that is the mirror.
    sent: u64,
    /// Whether all platforms that the upstream index names are there.
    whole: bool,
    why: Option<String>,
}

pub(super) fn run(args: &UpstreamMirrorArgs, printer: &Printer, session: &Session) -> Result<()> {
    let (path, progress) = (&args.lock.lock, session.progress());
    let lock = file::read(path)?;
    let target = target(&args.to)?;
    let images = Selection { images: &args.images, platforms: &[] }.images(&lock)?;
    if args.dry_run {
        let row = |name: &str| {
            let mirror = target.place(name).map(|place| place.to_string()).unwrap_or_default();
            UpstreamMirrorRow { mirror, written: 0, present: 0, fetched: 0, sent: 0, whole: false, why: None }
        };
        let rows: BTreeMap<String, UpstreamMirrorRow> =
            images.iter().map(|(name, _)| ((*name).to_owned(), row(name))).collect();
        if printer.json() {
            return printer.value(&UpstreamMirrorReport { images: &rows });
        }
        rows.iter().try_for_each(|(name, row)| printer.line(format!("{name}: {}", row.mirror)))?;
        return printer.line(format!("{} to mirror; nothing was done", count(rows.len(), "image")));
    }
    let registries = args.registry.registries()?;
    let store = BlobStore::new(&nix_places())?;
    let cache = home("XDG_CACHE_HOME", ".cache")?.join("windlass/blobs");
    let mirror = Mirror {
        registries: &registries,
        insecure: args.insecure,
        store: store.folder().is_dir().then_some(&store),
        cache: &cache,
        parallel: 4,
        progress,
    };
    let drawing = session.draw("mirroring");
    let (mut rows, mut failed, mut sum) = (BTreeMap::new(), Vec::new(), Mirrored::default());
    for (name, image) in &images {
        let result = mirror.copy(&target, name, image);
        progress.check()?;
        let place = target.place(name).map(|place| place.to_string()).unwrap_or_default();
        let row = match &result {
            Ok(done) => {
                sum.written += done.written;
                sum.present += done.present;
                sum.fetched += done.fetched;
                sum.sent += done.sent;
                let Mirrored { written, present, fetched, sent, whole } = *done;
                UpstreamMirrorRow { mirror: place, written, present, fetched, sent, whole, why: None }
            }
            Err(error) => UpstreamMirrorRow {
                mirror: place,
                written: 0,
                present: 0,
                fetched: 0,
                sent: 0,
                whole: false,
                why: Some(error.to_string()),
            },
        };
        rows.insert((*name).to_owned(), row);
        failed.extend(result.err());
    }
    let done = |name: &&str| rows.get(*name).is_some_and(|row: &UpstreamMirrorRow| row.why.is_none());
    let names: Vec<&str> = images.iter().map(|(name, _)| *name).filter(done).collect();
    let (state_path, mut state) = args.state.read(path)?;
    for name in &names {
        let image = state.images.entry((*name).to_owned()).or_default();
        (image.synced_at, image.local_digest) = (Some(now()), lock.images[*name].root());
    }
    if let Some(state_path) = state_path.filter(|_| !names.is_empty()) {
        state.write(&state_path, progress)?;
    }
    if args.set_source && !names.is_empty() {
        let mut change = UpstreamLockChange::begin(path, progress)?;
        for name in &names {
            if let Some(image) = change.lock.images.get_mut(*name) {
                (image.source, image.mirror) = (UpstreamSource::Mirror, Some(rows[*name].mirror.clone()));
            }
        }
        change.finish(progress)?;
    }
    drop(drawing);
    tell(&rows, sum, printer)?;
    if !failed.is_empty() {
        return Err(several(
            format!("{} could not be mirrored", count(failed.len(), "image")),
            failed.iter().map(Classified::class),
        ));
    }
    Ok(())
}

/// What was mirrored, by the names of the lock, for JSON.
#[derive(Debug, Serialize, schemars::JsonSchema)]
pub(super) struct UpstreamMirrorReport<'a> {
    images: &'a BTreeMap<String, UpstreamMirrorRow>,
}

fn tell(rows: &BTreeMap<String, UpstreamMirrorRow>, sum: Mirrored, printer: &Printer) -> Result<()> {
    for (name, why) in rows.iter().filter_map(|(name, row)| Some((name, row.why.as_ref()?))) {
        printer.note(format!("{name}: {why}"));
    }
    if printer.json() {
        return printer.value(&UpstreamMirrorReport { images: rows });
    }
    for (name, row) in rows.iter().filter(|(_, row)| row.why.is_none()) {
        let part = if row.whole { "" } else { "; its index names platforms that are not locked, and stays upstream" };
        printer.line(format!("{name}: {}{part}", row.mirror))?;
    }
    let Mirrored { written, present, fetched, sent, .. } = sum;
    let images = count(rows.len(), "image");
    let parts = match sent {
        0 => String::new(),
        sent => format!(" ({} received, {} sent)", size(fetched), size(sent)),
    };
    let network = size(fetched + sent);
    printer.line(format!("{images}: {} written, {present} present; network {network}{parts}", count(written, "blob")))
}

fn target(to: &str) -> Result<MirrorTarget> {
    if let Some(location) = to.strip_prefix("docker://") {
        let location: Location = location.parse()?;
        if location.tag().is_some() || location.digest().is_some() {
            return Err(usage(format!("--to {to}: images keep their tags; expected docker://REGISTRY/PREFIX")));
        }
        return Ok(MirrorTarget::Registry(location));
    }
    if to.contains("://") {
        return Err(usage(format!("--to {to}: expected a directory, or docker://REGISTRY/PREFIX")));
    }
    Ok(MirrorTarget::Directory(std::path::absolute(to)?))
}
