//! From a compose file to a NixOS configuration, with an account of every key.

pub(crate) mod account;
mod commands;
mod context;
mod convert;
mod health;
pub(crate) mod known;
mod network;
mod networks;
pub(crate) mod nix;
mod options;
mod resources;
mod runtime;
mod storage;
mod taint;
mod top;
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde::Serialize;
use serde_json::Value as Json;

use self::account::{Account, AccountRow, Fate, PlacedValue};
use self::context::{Draft, ImportContext, absolute};
use self::known::{known, package};
use self::networks::Net;
use self::nix::Set;
pub use super::read::ImportOptions;
use super::read::variables::given;
use super::read::yaml::Mark;
pub(crate) use super::read::{ComposeImportError, Pinned};
use super::read::{WholeFile, whole};
use crate::spec::service::ServiceConfig;

/// What came of it.
#[derive(Debug, Clone, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Imported {
    /// The configuration, a NixOS module.
    pub nix: String,
    /// Every key of the file and what became of it, in the order of the file.
    pub account: Vec<AccountRow>,
    /// What to know beside that.
    pub notes: Vec<String>,
    /// The numbers.
    pub counts: Counts,
    /// Bytes of memory that all containers with a limit may use together.
    pub(crate) memory: u64,
}

/// How much of everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Counts {
    /// Services of the file.
    pub services: usize,
    /// Services of the AI stack.
    pub ai_stack: usize,
    /// Other services that were taken over.
    pub others: usize,
    /// Services of profiles that were not asked for.
    pub left_out: usize,
    /// Services that compose has another program run for it.
    pub provided: usize,
    /// Keys that were taken over.
    pub taken: usize,
    /// Keys that were not.
    pub left: usize,
}

/// Imports a compose file.
///
/// # Errors
/// See [`ComposeImportError`].
pub fn import(options: &ImportOptions) -> Result<Imported, ComposeImportError> {
    let WholeFile { document, root, mut variables, directories, files, project } = whole(options)?;
    let tainted = taint::spread(&root, &mut variables);
    let mut cx = ImportContext {
        root: PlacedValue::root(&root),
        account: Account::default(),
        project,
        tainted,
        pinned: options.pinned.clone(),
        directories,
        variables,
        bytes: Cell::new(0),
        ours: root.get("x-windlass").is_some(),
        files,
        containers: BTreeMap::new(),
        mounted: BTreeMap::new(),
        used: BTreeSet::new(),
        unset: BTreeMap::new(),
        required: BTreeMap::new(),
        binds: BTreeMap::new(),
        networks: BTreeMap::new(),
        only_ai_stack: false,
        checked: BTreeSet::new(),
    };
    let all = cx.root.get("services").map(|services| services.children()).unwrap_or_default();
    let mut drafts = choose(&mut cx, &all, options)?;
    for (draft, at) in &mut drafts {
        convert::service(&mut cx, draft, at)?;
    }
    // What is waited for depends on what became of the others.
    let checked = |(draft, _): &&(Draft, PlacedValue<'_>)| draft.known.is_some() || draft.service.health.is_some();
    cx.checked = drafts.iter().filter(checked).map(|(draft, _)| draft.name.clone()).collect();
    for (draft, at) in &mut drafts {
        runtime::depends_on(&mut cx, draft, at)?;
    }
    // Names of a mapping are read nowhere else.
    for (draft, at) in &drafts {
        draft.service.check_text().map_err(|(key, message)| cx.wrong(at, format!("{key}: {message}")))?;
    }
    top::account(&mut cx, &document)?;
    let root = cx.root.clone();
    cx.account.sweep(&root, "is not a key that windlass knows");
    if !cx.required.is_empty() {
        let name = |(name, (mark, message)): (&String, &(Mark, String))| {
            let message = if message.is_empty() { String::new() } else { format!(": {message}") };
            format!("{name} (line {}{message})", mark.line)
        };
        let names = cx.required.iter().map(name).collect::<Vec<_>>().join(", ");
        return Err(ComposeImportError::Required { file: options.file.display().to_string(), names });
    }
    let account = cx.account.rows(&cx.files);
    let count = |fate: Fate| account.iter().filter(|row| row.fate == fate).count();
    let provided = all.iter().filter(|(_, at)| at.get("provider").is_some()).count();
    let ai_stack = drafts.iter().filter(|(draft, _)| draft.known.is_some()).count();
    let counts = Counts {
        services: all.len(),
        ai_stack,
        others: drafts.len() - ai_stack,
        left_out: all.len() - drafts.len() - provided,
        provided,
        taken: count(Fate::Taken),
        left: count(Fate::Left),
    };
    let drafts: Vec<Draft> = drafts.into_iter().map(|(draft, _)| draft).collect();
    let memory = drafts.iter().filter_map(|draft| bytes(draft.service.memory.as_deref()?)).sum();
    Ok(Imported { nix: text(&options.file, &drafts, &cx), notes: notes(&cx, &drafts), account, counts, memory })
}

/// The services that are taken over, each with its container.
fn choose<'n>(
    cx: &mut ImportContext<'n>,
    all: &[(&str, PlacedValue<'n>)],
    options: &ImportOptions,
) -> Result<Vec<(Draft, PlacedValue<'n>)>, ComposeImportError> {
    let mut wanted: Vec<String> = options.profiles.clone();
    if wanted.is_empty() {
        wanted = given(&cx.variables, "COMPOSE_PROFILES")
            .map(|text| text.value.split(',').map(str::to_owned).collect())
            .unwrap_or_default();
    }
    let mut drafts: Vec<(Draft, PlacedValue<'n>)> = Vec::new();
    for (name, at) in all {
        if let Some(provider) = at.get("provider") {
            let kind =
                provider.get("type").and_then(|kind| storage::scalar(&cx.variables, kind.node)).unwrap_or_default();
            let how = match kind.as_str() {
                "model" => "; services.ai-stack.models and its llama-cpp or ollama serve models",
                _ => "; run it yourself, and give those that depend on it the variables that it would",
            };
            cx.account.leave(at, format!("is run by a program of compose's ({kind}), and not as a container{how}"));
            continue;
        }
        let list = at.get("profiles").map(|child| cx.strings(&child)).transpose()?.unwrap_or_default();
        let profiles: Vec<&str> = list.iter().map(|(_, name)| name.as_str()).collect();
        let asked =
            profiles.is_empty() || profiles.iter().any(|profile| wanted.iter().any(|one| one == profile || one == "*"));
        if !asked {
            let names = profiles.join(", ");
            cx.account.leave(at, format!("is of the profile {names}: ask for it with --profile {}", profiles[0]));
            continue;
        }
        let image = at.get("image").and_then(|image| storage::scalar(&cx.variables, image.node));
        // A second one of the same kind has no place in the AI stack.
        let known = image.as_deref().and_then(known);
        let known = known.filter(|known| !drafts.iter().any(|(other, _)| other.known == Some(known)));
        let container = known.map_or_else(|| (*name).to_owned(), |known| known.name.to_owned());
        let draft = Draft {
            name: (*name).to_owned(),
            container,
            service: ServiceConfig::default(),
            known,
            port: None,
            package: image.as_deref().filter(|_| known.is_some()).and_then(package),
            pin: None,
            lost_secret: false,
            comments: BTreeMap::new(),
        };
        drafts.push((draft, at.clone()));
    }
    // A container of the AI stack has its name for itself.
    let taken: Vec<&str> = drafts.iter().filter_map(|(draft, _)| draft.known).map(|known| known.name).collect();
    for (draft, _) in drafts.iter_mut().filter(|(draft, _)| draft.known.is_none()) {
        if taken.contains(&draft.container.as_str()) {
            draft.container = format!("{}-{}", cx.project, draft.name);
        }
    }
    cx.only_ai_stack = drafts.iter().all(|(draft, _)| draft.known.is_some_and(|known| known.name == draft.name));
    for (draft, at) in &drafts {
        cx.containers.insert(draft.name.clone(), draft.container.clone());
        let volumes = at.get("volumes").map(|volumes| volumes.children()).unwrap_or_default();
        for (_, item) in volumes {
            if let Some(source) = storage::peek(cx, item.node) {
                *cx.mounted.entry(source).or_default() += 1;
            }
        }
    }
    Ok(drafts)
}

fn notes(cx: &ImportContext<'_>, drafts: &[Draft]) -> Vec<String> {
    let mut notes = Vec::new();
    for (name, mark) in &cx.unset {
        notes.push(format!(
            "line {}: {name} has no value, and nothing is put in for it; --env-file gives values",
            mark.line
        ));
    }
    let external: Vec<&str> =
        cx.networks.iter().filter(|(_, net)| matches!(net, Net::External)).map(|(name, _)| name.as_str()).collect();
    for (name, net) in &cx.networks {
        if let Net::Unmade(why) = net {
            notes.push(format!("the network {name} has to be made before the containers start: {why}"));
        }
    }
    if !external.is_empty() {
        notes.push(format!("the file does not make these networks: {}", external.join(", ")));
    }
    let mounts = drafts.iter().flat_map(|draft| &draft.service.volumes).filter_map(|volume| volume.split_once(':'));
    let volumes: BTreeSet<&str> = mounts.map(|(source, _)| source).filter(|source| !source.starts_with('/')).collect();
    if !volumes.is_empty() && !cx.ours {
        let names = volumes.into_iter().collect::<Vec<_>>().join(", ");
        notes.push(format!(
            "volumes are those that podman-compose would have made; what Docker has in its own must be copied: {names}"
        ));
    }
    if !cx.binds.is_empty() {
        let directory = absolute(&cx.directories[0], ".");
        let paths: Vec<String> = cx.binds.keys().cloned().collect();
        let paths = paths.join(", ");
        notes.push(format!("relative paths were taken from {directory}; Podman makes no path of the host, so these must be there: {paths}"));
    }
    notes
}

/// A size of the description (`512m`) in bytes.
fn bytes(size: &str) -> Option<u64> {
    let number = size.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let factor: u64 = match size[number.len()..].chars().next() {
        None | Some('b') => 1,
        Some('k') => 1 << 10,
        Some('m') => 1 << 20,
        Some('g') => 1 << 30,
        Some(_) => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(factor)
}

/// The module: what the AI stack has a service for, and the other containers.
fn text(file: &Path, drafts: &[Draft], cx: &ImportContext<'_>) -> String {
    let mut images = Set::default();
    let (mut stack, mut containers) = (Set::default(), Set::default());
    for draft in drafts {
        let mut set = Set::default();
        let description = serde_json::to_value(&draft.service).unwrap_or_default();
        if let Json::Object(keys) = description {
            for (key, value) in keys.into_iter().filter(|(key, _)| key != "image" || draft.known.is_none()) {
                let comments = draft.comments.get(&key).cloned().unwrap_or_default();
                // These services have an environment of their own, over which that of the file goes.
                let forced = key == "environment" && draft.known.is_some_and(|known| !known.built);
                match draft.pin.as_ref().filter(|_| key == "image") {
                    Some(pin) => set.raw(
                        &key,
                        format!("config.virtualisation.windlass.images.{}.ref", nix::name(pin)),
                        &comments,
                    ),
                    None => set.value(&key, value, &comments),
                }
                if forced {
                    set.apply(&key, FORCE);
                }
            }
        }
        if draft.known.is_none() {
            containers.set(&draft.container, set, &[]);
            if let Some(pin) = &draft.pin {
                let (lock, name) = (&cx.pinned.lock, nix::string(pin));
                let fetch =
                    format!("config.virtualisation.windlass.lib.fetchImage {{ lock = {lock}; name = {name}; }}");
                images.raw(pin, fetch, &[]);
            }
            continue;
        }
        let mut service = Set::default();
        service.value("enable", true, &[]);
        if let Some(port) = draft.port {
            service.value("port", port, &[]);
        }
        if let Some(package) = draft.package {
            service.raw("package", format!("pkgs.{package}"), &[]);
        }
        if !set.is_empty() {
            service.set("container", set, &[]);
        }
        let mut comments = draft.comments.get("").cloned().unwrap_or_default();
        if draft.name != draft.container {
            comments.insert(0, format!("{} in the compose file.", draft.name));
        }
        stack.set(&draft.container, service, &comments);
    }
    let mut all = Set::default();
    if !stack.is_empty() {
        let mut services = Set::default();
        stack.value("enable", true, &[]);
        services.set("ai-stack", stack, &[]);
        all.set("services", services, &[]);
    }
    let made = |(name, net): (&String, &Net)| match net {
        Net::Made(set) => Some((name.clone(), set.clone())),
        Net::External | Net::Unmade(_) => None,
    };
    let made: Vec<(String, Set)> = cx.networks.iter().filter_map(made).collect();
    let (mut virtualisation, mut windlass) = (Set::default(), Set::default());
    if made.iter().any(|(_, set)| !set.is_empty()) {
        let mut networks = Set::default();
        made.into_iter().for_each(|(name, set)| networks.set(&name, set, &[]));
        windlass.set("networks", networks, &[]);
    } else if !made.is_empty() {
        let names: Vec<String> = made.into_iter().map(|(name, _)| name).collect();
        windlass.value("networks", serde_json::json!(names), &[]);
    }
    if !images.is_empty() {
        windlass.set("images", images, &[]);
    }
    if !containers.is_empty() {
        windlass.set("containers", containers, &[]);
        windlass.value("enable", true, &[]);
    }
    if !windlass.is_empty() {
        virtualisation.set("windlass", windlass, &[]);
        all.set("virtualisation", virtualisation, &[]);
    }
    let name = file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let all = all.text();
    let pins = drafts.iter().any(|draft| draft.pin.is_some());
    let packages = drafts.iter().any(|draft| draft.package.is_some());
    let wanted = [("config", pins), ("lib", all.contains(FORCE)), ("pkgs", packages)];
    let wanted: Vec<&str> = wanted.into_iter().filter(|(_, is_wanted)| *is_wanted).map(|(name, _)| name).collect();
    let head = if wanted.is_empty() { String::new() } else { format!("{{ {}, ... }}:\n", wanted.join(", ")) };
    format!("# {}, imported by windlass.\n{head}{all}\n", name.replace(['\n', '\r'], " "))
}

/// Over what a module says itself.
const FORCE: &str = "lib.mapAttrs (_: lib.mkForce) ";
