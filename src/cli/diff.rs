//! `windlass diff`

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::data_format::breaks;
use super::failure::Result;
use super::host::HostArgs;
use super::printer::{Printer, count, size};
use super::settings::{self, Setting};
use super::targets::{lean, targets};
use super::view::{self, SeenLayer, ViewedImage, short};
use crate::build::stack::read_services;
use crate::engine::target::{LoadOptions, plan};
use crate::image::{LayerKind, LayerRecord, chain_ids};
use crate::nix::store_path::{StorePath, name_and_version};
use crate::oci::digest::Digest;
use crate::spec::service::ServiceConfig;

/// Show what changed from one image or stack to another, what a host that has OLD would write for NEW, and which services of
/// the stack would restart.
///
/// A layer is written if its blob is new, or if a layer below it changed: Podman names a layer by everything below it,
/// and stores the same blob again above another parent. A layer that is *regrouped* has store paths that OLD has too, in
/// other layers, because another image came, went or changed: a linked store links them again, and only a Podman that unpacks
/// layers writes them. What this host would write for NEW stands at the end.
///
/// Variables, labels and commands are told by name, never with their values.
#[derive(Debug, clap::Args)]
pub(super) struct DiffArgs {
    /// What the host has: an image directory, a lean stack, or a stack of archives.
    old: PathBuf,
    /// What it would get.
    new: PathBuf,
    #[command(flatten)]
    host: HostArgs,
}

/// What a host would do for one image.
#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ImageChange {
    pub(super) name: String,
    pub(super) platform: String,
    /// `identical`, `regrouped` (the same content with other layer boundaries), `changed` or `new`.
    pub(super) state: &'static str,
    /// What of its config is not what it was.
    pub(super) settings: Vec<Setting>,
    /// Packages that came, went, or have another version: name, before, after.
    pub(super) packages: Vec<(String, Vec<String>, Vec<String>)>,
    pub(super) new_blobs: Vec<LayerChange>,
    pub(super) rewritten: Vec<LayerChange>,
    /// Layers whose store paths all are in OLD, in other layers.
    pub(super) regrouped: Vec<LayerChange>,
    /// Bytes of what is new or above it.
    pub(super) bytes_to_write: u64,
    /// Bytes that a Podman which unpacks layers writes besides, as layers have other boundaries.
    pub(super) bytes_regrouped: u64,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct LayerChange {
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) title: String,
}

/// A service of the stack that does not go on as it is.
#[derive(Debug, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct ServiceChange {
    pub(super) name: String,
    /// `restart`, `start` or `stop`.
    pub(super) action: &'static str,
    pub(super) why: Vec<String>,
}

#[derive(Debug, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct DiffReport {
    pub(super) changes: Vec<ImageChange>,
    pub(super) removed: Vec<String>,
    pub(super) services: Vec<ServiceChange>,
    pub(super) bytes_to_write: u64,
    pub(super) bytes_regrouped: u64,
    /// Bytes that a load of NEW would write on this host; not known without Podman, and of archives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) bytes_to_write_here: Option<u64>,
    /// Data that the new version of a program does not read, and what could not be compared.
    pub(super) warnings: Vec<String>,
}

/// All that changed from OLD to NEW; with a host, also what that one would write.
pub(super) fn between(old: &Path, new: &Path, host: Option<&HostArgs>) -> Result<DiffReport> {
    let (old_path, new_path) = (lean(old), lean(new));
    let (old, new) = (view::look(&old_path)?, view::look(&new_path)?);
    let mut report = compare(&old, &new);
    report.services = services(&read_services(&old_path)?, &read_services(&new_path)?, &report.changes);
    if old.iter().chain(&new).any(|image| image.config.is_none()) {
        report.warnings.push("the settings of images in archives are not compared: give the lean stacks".to_owned());
    }
    report.bytes_to_write_here = host.and_then(|host| here(host, new_path));
    Ok(report)
}

pub(super) fn run(args: &DiffArgs, printer: &Printer) -> Result<()> {
    let report = between(&args.old, &args.new, Some(&args.host))?;
    if printer.json() {
        return printer.value(&report);
    }
    let number = |state: &str| report.changes.iter().filter(|change| change.state == state).count();
    report.changes.iter().try_for_each(|change| tell(change, printer))?;
    report.warnings.iter().for_each(|warning| printer.note(format!("warning: {warning}")));
    report.removed.iter().try_for_each(|name| printer.line(format!("{name}: removed")))?;
    for ServiceChange { name, action, why } in &report.services {
        let why = if why.is_empty() { String::new() } else { format!(": {}", why.join(", ")) };
        printer.line(format!("service {name} would {action}{why}"))?;
    }
    let (identical, regrouped) = (number("identical"), number("regrouped"));
    let same = match regrouped {
        0 => String::new(),
        _ => format!("{regrouped} with other layer boundaries, "),
    };
    let again = again(report.bytes_regrouped);
    printer.line(format!(
        "{} changed, {same}{identical} identical, {} removed; {} to write{again}",
        report.changes.len() - identical - regrouped,
        report.removed.len(),
        size(report.bytes_to_write)
    ))?;
    let Some(bytes) = report.bytes_to_write_here else { return Ok(()) };
    printer.line(format!("this host: {} to write for {}", size(bytes), args.new.display()))
}

/// What is said of bytes that only a Podman which unpacks layers writes.
fn again(regrouped: u64) -> String {
    if regrouped == 0 { String::new() } else { format!("; where Podman unpacks layers, {} again", size(regrouped)) }
}

fn tell(change: &ImageChange, printer: &Printer) -> Result<()> {
    let ImageChange { name, state, new_blobs, rewritten, regrouped, bytes_to_write, bytes_regrouped, .. } = change;
    match *state {
        "identical" => return Ok(()),
        "regrouped" => {
            let layers = count(rewritten.len() + regrouped.len(), "layer");
            let again = again(bytes_to_write + bytes_regrouped);
            printer.line(format!("{name}: same content, other layer boundaries; {layers}{again}"))?;
        }
        _ => {
            let layers = count(new_blobs.len() + rewritten.len() + regrouped.len(), "layer");
            let (bytes, again) = (size(*bytes_to_write), again(*bytes_regrouped));
            printer.line(format!("{name}{}: {layers}, {bytes} to write{again}", versions(change)))?;
        }
    }
    let line = |word: &str, LayerChange { size: bytes, digest, title }: &LayerChange, why: &str| {
        printer.line(format!("  {word:9}  {:>9}  {}  {title}{why}", size(*bytes), digest.short()))
    };
    new_blobs.iter().try_for_each(|layer| line("new", layer, ""))?;
    rewritten.iter().try_for_each(|layer| line("rewritten", layer, ", written again: a layer below it changed"))?;
    regrouped.iter().try_for_each(|layer| line("regrouped", layer, ", there already in other layers"))?;
    for (name, before, after) in &change.packages {
        let version = |versions: &[String]| if versions.is_empty() { "none".to_owned() } else { versions.join(", ") };
        printer.line(format!("  package    {name} {} → {}", version(before), version(after)))?;
    }
    change.settings.iter().try_for_each(|setting| printer.line(format!("  setting    {setting}")))
}

/// What a load of NEW would write on this host, where that is known.
fn here(host: &HostArgs, path: PathBuf) -> Option<u64> {
    let progress = super::session::progress();
    if view::is_of_archives(&path).ok()? {
        return None;
    }
    let host = host.host(&progress).ok()?;
    let steps = plan(&host, &targets(&[path], &[]).ok()?, LoadOptions::default(), &progress).ok()?;
    Some(steps.iter().map(|step| step.to_write).sum())
}

/// The services that would not go on as they are. Their units name images by digest, so that another digest restarts them.
fn services(
    old: &BTreeMap<String, ServiceConfig>,
    new: &BTreeMap<String, ServiceConfig>,
    changes: &[ImageChange],
) -> Vec<ServiceChange> {
    let object = |service: &ServiceConfig| {
        let value = serde_json::to_value(service).expect("string keys and texts are JSON");
        value.as_object().cloned().unwrap_or_default()
    };
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let of_service = |name: &String| {
        let (action, why) = match (old.get(name), new.get(name)) {
            (Some(before), Some(after)) => {
                let settings = settings::changes(&object(before), &object(after));
                let image = changes.iter().find(|change| change.name == after.image && change.state != "identical");
                let image = image.map(|change| match change.state {
                    "regrouped" => format!("image {} has another digest, of the same content", change.name),
                    state => format!("image {} is {state}", change.name),
                });
                let why: Vec<String> = image.into_iter().chain(settings.iter().map(ToString::to_string)).collect();
                if why.is_empty() {
                    return None;
                }
                ("restart", why)
            }
            (None, Some(_)) => ("start", Vec::new()),
            (_, None) => ("stop", Vec::new()),
        };
        Some(ServiceChange { name: name.clone(), action, why })
    };
    names.into_iter().filter_map(of_service).collect()
}

/// ` 1.16.2 → 1.16.3` where the package that gave the image its name has another version.
fn versions(change: &ImageChange) -> String {
    match change.packages.iter().find(|(name, _, _)| *name == change.name) {
        Some((_, before, after)) if !before.is_empty() && !after.is_empty() => {
            format!(" {} → {}", before.join(", "), after.join(", "))
        }
        _ if change.state == "new" => " (new)".to_owned(),
        _ => String::new(),
    }
}

fn compare(old: &[ViewedImage], new: &[ViewedImage]) -> DiffReport {
    let layers = || old.iter().flat_map(|image| image.layers.iter());
    let blobs: BTreeSet<Digest> = layers().filter_map(|layer| layer.digest).collect();
    let paths: BTreeSet<&str> = layers().flat_map(closure).collect();
    let mut chains: BTreeSet<Digest> = old.iter().flat_map(chain).collect();
    let mut changes = Vec::new();
    for image in new {
        let before = old.iter().find(|before| before.name == image.name && before.platform == image.platform);
        let (mut new_blobs, mut rewritten, mut regrouped) = (Vec::new(), Vec::new(), Vec::new());
        for (layer, chain) in image.layers.iter().zip(chain(image)) {
            let Some(digest) = layer.digest else { continue };
            // A chain that an earlier image of this list brings is written once.
            if chains.insert(chain) {
                let change = LayerChange { digest, size: layer.diff_size(), title: layer.title.clone() };
                let mut owners = closure(layer).peekable();
                let to = if blobs.contains(&digest) {
                    &mut rewritten
                } else if owners.peek().is_some() && owners.all(|path| paths.contains(path)) {
                    &mut regrouped
                } else {
                    &mut new_blobs
                };
                to.push(change);
            }
        }
        let configs = before.and_then(|before| before.config.as_ref().zip(image.config.as_ref()));
        let settings = configs.map(|(old, new)| settings::changes(old, new)).unwrap_or_default();
        let state = match before {
            None => "new",
            Some(before) if before.digest == image.digest => "identical",
            Some(before) if settings.is_empty() && is_same_content(before, image) => "regrouped",
            Some(_) => "changed",
        };
        let sum = |layers: &[LayerChange]| layers.iter().map(|layer| layer.size).sum::<u64>();
        let (mut bytes_to_write, mut bytes_regrouped) = (sum(&new_blobs) + sum(&rewritten), sum(&regrouped));
        if state == "regrouped" {
            // What lies above the other boundaries is written again for the same reason.
            bytes_regrouped += std::mem::take(&mut bytes_to_write);
        }
        let packages = before.map(|before| packages(before, image)).unwrap_or_default();
        let (name, platform) = (image.name.to_string(), image.platform.to_string());
        changes.push(ImageChange {
            name,
            platform,
            state,
            settings,
            packages,
            new_blobs,
            rewritten,
            regrouped,
            bytes_to_write,
            bytes_regrouped,
        });
    }
    let gone = old
        .iter()
        .filter(|before| !new.iter().any(|image| image.name == before.name && image.platform == before.platform));
    DiffReport {
        removed: gone.map(|image| image.name.to_string()).collect(),
        services: Vec::new(),
        bytes_to_write: changes.iter().map(|change| change.bytes_to_write).sum(),
        bytes_regrouped: changes.iter().map(|change| change.bytes_regrouped).sum(),
        bytes_to_write_here: None,
        warnings: breaks(old, new),
        changes,
    }
}

/// The store paths of a layer that has them where they are, whose names say what is in them.
pub(super) fn closure(layer: &SeenLayer) -> impl Iterator<Item = &str> {
    let is_store_path = |owner: &&str| {
        let name = owner.rsplit('/').next().unwrap_or(owner);
        StorePath::from_base_name(name).is_ok()
    };
    layer
        .owners
        .iter()
        .map(String::as_str)
        .filter(move |owner| layer.kind == LayerKind::Closure && is_store_path(owner))
}

/// Whether two images have the same store paths, and the same layers of everything else.
fn is_same_content(before: &ViewedImage, after: &ViewedImage) -> bool {
    let paths = |image: &ViewedImage| -> BTreeSet<String> {
        image.layers.iter().flat_map(closure).map(str::to_owned).collect()
    };
    let others = |image: &ViewedImage| -> Vec<Option<Digest>> {
        let others = image.layers.iter().filter(|layer| closure(layer).next().is_none());
        others.map(|layer| layer.digest).collect()
    };
    paths(before) == paths(after) && others(before) == others(after)
}

fn chain(image: &ViewedImage) -> Vec<Digest> {
    let record = |layer: &SeenLayer| {
        let (title, why, owners) = (String::new(), String::new(), Vec::new());
        let (size, packed, kind) = (layer.size, layer.packed.clone(), layer.kind);
        layer.digest.map(|digest| LayerRecord { digest, size, packed, kind, part: None, title, why, owners })
    };
    chain_ids(&image.layers.iter().filter_map(record).collect::<Vec<_>>())
}

fn packages(old: &ViewedImage, new: &ViewedImage) -> Vec<(String, Vec<String>, Vec<String>)> {
    let (before, after) = (versions_in(old), versions_in(new));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let of = |map: &BTreeMap<String, BTreeSet<String>>, name| {
        map.get(name).map(|set| set.iter().cloned().collect::<Vec<_>>()).unwrap_or_default()
    };
    names
        .into_iter()
        .map(|name| (name.clone(), of(&before, name), of(&after, name)))
        .filter(|(_, before, after)| before != after)
        .collect()
}

pub(super) fn versions_in(image: &ViewedImage) -> BTreeMap<String, BTreeSet<String>> {
    let mut packages: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for layer in image.layers.iter().filter(|layer| layer.kind != LayerKind::Root) {
        for owner in &layer.owners {
            let (package, version) = name_and_version(short(owner));
            packages.entry(package.to_owned()).or_default().insert(version.to_owned());
        }
    }
    packages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::Name;
    use crate::oci::platform::Platform;
    use crate::oci::reference::Reference;

    fn image(name: &str, layers: &[(&str, u64)]) -> ViewedImage {
        let layer = |(owner, size): &(&str, u64)| SeenLayer {
            digest: Some(Digest::of(owner.as_bytes())),
            size: *size,
            packed: None,
            kind: LayerKind::Closure,
            part: None,
            title: (*owner).to_owned(),
            why: String::new(),
            owners: vec![(*owner).to_owned()],
            on_disk: None,
        };
        let all: String = layers.iter().map(|(owner, _)| *owner).collect();
        ViewedImage {
            name: Name::new(name).unwrap(),
            reference: Reference::new(name, "0").unwrap(),
            platform: Platform::of_data(),
            digest: Digest::of(all.as_bytes()),
            config_digest: Digest::of(b""),
            size: 0,
            models: Vec::new(),
            layers: layers.iter().map(layer).collect(),
            model: None,
            config: Some(serde_json::Map::new()),
        }
    }

    #[test]
    fn data_that_a_new_version_does_not_read_are_told() {
        let of = |owner: &str| [image("postgres", &[("glibc-1", 30), (owner, 3)])];
        let told = |old: &str, new: &str| compare(&of(old), &of(new)).warnings;
        let [warning] = &told("postgresql-17.6", "postgresql-18.1")[..] else { panic!() };
        assert!(
            warning.starts_with("postgres: postgres 17 → 18: 18 does not read the data of 17; before it"),
            "{warning}"
        );
        assert_eq!(told("postgresql-and-plugins-17.6", "postgresql-18.1").len(), 1);
        assert_eq!(told("postgresql-17.5", "postgresql-17.6"), [""; 0]);
        // An image of upstream's says it in a variable.
        let mut both = [of("upstream"), of("upstream")];
        both[0][0].config.as_mut().unwrap().insert("Env".to_owned(), serde_json::json!(["PG_MAJOR=17"]));
        both[1][0].config.as_mut().unwrap().insert("Env".to_owned(), serde_json::json!(["PG_MAJOR=18"]));
        assert_eq!(compare(&both[0], &both[1]).warnings.len(), 1);
    }

    #[test]
    fn a_bump_in_the_middle_rewrites_what_lies_above() {
        let old =
            [image("redis", &[("glibc-1", 30), ("openssl-1", 6), ("redis-1", 3)]), image("other", &[("glibc-1", 30)])];
        let new =
            [image("redis", &[("glibc-1", 30), ("openssl-2", 7), ("redis-1", 3)]), image("other", &[("glibc-1", 30)])];
        let report = compare(&old, &new);
        let [redis, other] = &report.changes[..] else { panic!() };
        assert_eq!((redis.state, redis.bytes_to_write), ("changed", 10));
        assert_eq!(redis.new_blobs[0].title, "openssl-2");
        assert_eq!(redis.rewritten[0].title, "redis-1");
        assert_eq!(redis.packages, [("openssl".to_owned(), vec!["1".to_owned()], vec!["2".to_owned()])]);
        assert_eq!((other.state, other.bytes_to_write), ("identical", 0));
    }
}
