//! Asking Podman where its things are: one `podman info`, and what it says of stores while it starts.
//!
//! Podman 4.3 shows the last additional image store alone; all of them are in its debug messages, which every version has.

use std::collections::BTreeMap;
use std::path::{Component, Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::fs::{Access, access};
use serde::Deserialize;
use serde_json::Value;

use super::conf_files::{CONF_VARIABLE, ConfFiles};
use super::places::{Caller, Overrides, Places, PlacesError};
use super::users;
use crate::disk::progress::Progress;
use crate::engine::process::{self, ProgramError};

/// How long Podman may take to answer. It waits for the locks of a load by another Podman.
const LIMIT: Duration = Duration::from_secs(30);

#[derive(Deserialize)]
struct PodmanInfo {
    host: HostInfo,
    store: StoreInfo,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct HostInfo {
    #[serde(default)]
    service_is_remote: bool,
    security: Security,
}

#[derive(Deserialize)]
struct Security {
    rootless: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct StoreInfo {
    graph_root: PathBuf,
    run_root: PathBuf,
    graph_driver_name: String,
    #[serde(default)]
    graph_options: BTreeMap<String, Value>,
    #[serde(default)]
    config_file: Option<PathBuf>,
    #[serde(default)]
    image_copy_tmp_dir: Option<PathBuf>,
}

/// Asks the caller's Podman.
///
/// A rootless Podman remembers for ever the driver that it took first, and where no file names one, Podman 4.3 takes vfs. So one
/// that has never run is asked to take overlay, if it can.
pub(crate) fn ask(caller: &Caller, overrides: &Overrides, progress: &Progress) -> Result<Places, PlacesError> {
    let program = on_path(caller, "podman").ok_or(PlacesError::NoPodman)?;
    if is_first(caller, overrides) && users::takes_overlay(caller, progress) {
        let mut caller = caller.clone();
        caller.variables.insert("STORAGE_DRIVER".to_owned(), "overlay".to_owned());
        return ask_as(&caller, overrides, &program, |_| {}, progress, LIMIT);
    }
    ask_as(caller, overrides, &program, |_| {}, progress, LIMIT)
}

/// Whether a rootless Podman has never run, and nothing says which driver it is to take.
fn is_first(caller: &Caller, overrides: &Overrides) -> bool {
    let set = |name: &str| caller.variables.get(name).filter(|value| !value.is_empty());
    let named = overrides.root.is_some() || overrides.storage_conf.is_some() || set(CONF_VARIABLE).is_some();
    if caller.uid == 0 || named || set("STORAGE_DRIVER").is_some() || set("_CONTAINERS_ROOTLESS_UID").is_some() {
        return false;
    }
    let data = set("XDG_DATA_HOME").map(PathBuf::from);
    let data = data.or_else(|| Some(caller.home.as_ref()?.join(".local/share")));
    let files = ConfFiles { system: Path::new("/"), caller };
    data.is_some_and(|data| !data.join("containers/storage").exists()) && !files.has_driver()
}

/// Asks a Podman, with `change` made to the command.
pub(crate) fn ask_as(
    caller: &Caller,
    overrides: &Overrides,
    program: &Path,
    change: impl FnOnce(&mut Command),
    progress: &Progress,
    limit: Duration,
) -> Result<Places, PlacesError> {
    let mut command = Command::new(program);
    command.env_clear().envs(&caller.variables).env_remove("CONTAINER_HOST").env_remove("CONTAINER_CONNECTION");
    let Overrides { root, runroot, storage_conf } = overrides;
    for (flag, path) in [("--root", root), ("--runroot", runroot)] {
        command.args(path.iter().flat_map(|path| [flag.as_ref(), path.as_os_str()]));
    }
    command.envs(storage_conf.iter().map(|path| (CONF_VARIABLE, path)));
    command.args(["--log-level", "debug", "info", "--format", "json"]);
    // Podman has dpkg search all of its database for the packages of its helpers, which takes twice as long as all the rest, and
    // is not read here (Podman 4.3, `podman info`). Without a database dpkg says at once that it knows none.
    command.env("DPKG_ADMINDIR", "/dev/null");
    change(&mut command);
    let outcome = process::run_within("podman", &mut command, progress, Some(limit));
    let outcome = outcome.map_err(|error| match error {
        ProgramError::Stopped(source) => PlacesError::Stopped(source),
        ProgramError::Slow { .. } => PlacesError::Slow { program: program.to_owned(), seconds: limit.as_secs() },
        ProgramError::Start { source, .. } => PlacesError::Start { program: program.to_owned(), source },
        _ => PlacesError::NoPodman,
    })?;
    let files = ConfFiles { system: Path::new("/"), caller };
    let named = overrides.storage_conf.clone().or_else(|| caller.variables.get(CONF_VARIABLE).map(PathBuf::from));
    if !outcome.is_success() {
        let said = outcome.sentence();
        let next = next(&said, &files, named.as_deref());
        return Err(PlacesError::Failed { said, next });
    }
    let info: PodmanInfo = serde_json::from_str(&outcome.stdout).map_err(|error| PlacesError::Answer {
        program: program.to_owned(),
        said: outcome.stdout.trim().chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect(),
        why: error.to_string(),
    })?;
    if info.host.service_is_remote {
        return Err(PlacesError::Remote { program: program.to_owned() });
    }
    let StoreInfo { graph_root, run_root, graph_driver_name: driver, graph_options, config_file, image_copy_tmp_dir } =
        info.store;
    let (mut image_stores, driver_options) = options(graph_options, &outcome.stderr);
    let main = named.or_else(|| config_file.clone());
    // A Podman that knows it has made it by now.
    let is_made = |store: &PathBuf| store.join(format!("{driver}-images")).is_dir();
    let separate_store = files.separate_store(main.as_deref()).filter(|store| root.is_none() && is_made(store));
    image_stores.splice(0..0, separate_store.clone());
    Ok(Places {
        graph_root,
        run_root,
        driver,
        image_stores,
        separate_store,
        driver_options,
        temporary: image_copy_tmp_dir.filter(|path| path.is_absolute()),
        conf: config_file,
        rootless: info.host.security.rootless,
    })
}

/// The additional image stores, and the other options of the driver.
fn options(all: BTreeMap<String, Value>, debug: &str) -> (Vec<PathBuf>, BTreeMap<String, String>) {
    const OPENED: &str = "overlay: imagestore=";
    let (mut listed, mut last, mut others) = (None, None, BTreeMap::new());
    for (key, value) in all {
        let name = key.rsplit_once('.').map_or(&*key, |(_, name)| name).to_ascii_lowercase();
        // Where an executable is, with its package.
        let text = value.as_str().or_else(|| value.get("Executable")?.as_str()).map(str::to_owned);
        if name.ends_with("imagestores") {
            listed =
                value.as_array().map(|list| list.iter().filter_map(|one| Some(one.as_str()?.to_owned())).collect());
        } else if name.ends_with("imagestore") {
            last = text;
        } else {
            others.extend(text.map(|text| (name, text)));
        }
    }
    let opened = || {
        let lines = debug.lines().filter_map(|line| Some(line.split_once(OPENED)?.1.trim_end_matches('"').to_owned()));
        lines.collect::<Vec<String>>()
    };
    let stores: Vec<String> = match (listed, last) {
        (Some(listed), _) => listed,
        (None, Some(last)) => Some(opened()).filter(|opened| !opened.is_empty()).unwrap_or_else(|| vec![last]),
        (None, None) => Vec::new(),
    };
    let mut paths: Vec<PathBuf> = Vec::new();
    // One text may be several stores, separated by commas.
    for store in stores.iter().flat_map(|store| store.split(',')).filter(|store| !store.is_empty()) {
        let path = clean(Path::new(store.trim()));
        if !paths.contains(&path) {
            paths.push(path);
        }
    }
    (paths, others)
}

/// What to do about a sentence of Podman's, as far as it is known.
fn next(said: &str, files: &ConfFiles<'_>, named: Option<&Path>) -> String {
    let quoted =
        |start: &str| Some(said.split_once(start)?.1.split([':', '"', ' ']).find(|word| !word.is_empty())?.to_owned());
    let from = |text: &str| {
        let names: Vec<String> = files.with(text, named).iter().map(|path| path.display().to_string()).collect();
        if names.is_empty() { "storage.conf, or STORAGE_OPTS".to_owned() } else { names.join(" and ") }
    };
    if let Some(store) = missing_store(said) {
        let store = store.display();
        return format!(
            "`windlass doctor --fix --storage-dir {store}` makes it, or take it out of {}",
            from(&store.to_string())
        );
    }
    if let Some(store) = quoted("image path ") {
        let what =
            if said.contains("not absolute") { "write the absolute path of the store" } else { "name a directory" };
        return format!("{what} instead of '{store}' in {}", from(&store));
    }
    if said.contains("permission denied") && said.contains("overlay-images") {
        return "a store that storage.conf names cannot be read by this user: have root share it, or name it only for root, \
                in /etc/containers/storage.rootful.conf.d"
            .to_owned();
    }
    "`podman info` shows it again; correct what it names".to_owned()
}

/// The additional image store that Podman says is not there.
pub(crate) fn missing_store(said: &str) -> Option<PathBuf> {
    let path = said.split_once("can't stat imageStore dir ")?.1.split(": ").next()?.trim();
    Some(clean(Path::new(path)))
}

/// Where a program is on the caller's PATH.
pub(crate) fn on_path(caller: &Caller, program: &str) -> Option<PathBuf> {
    let path = caller.variables.get("PATH")?;
    let mut found = std::env::split_paths(path).map(|folder| folder.join(program));
    found.find(|file| file.is_file() && access(file, Access::EXEC_OK).is_ok())
}

/// Without `.` and `..`, by the letters alone, as Podman does it.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            Component::ParentDir => drop(clean.pop()),
            part => clean.push(part),
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    /// What is made of a `podman` that is this script.
    fn answer(script: &str, limit: Duration) -> Result<Places, String> {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("podman");
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).unwrap();
        let path = std::env::var("PATH").unwrap();
        let caller = Caller { uid: 0, home: None, variables: [("PATH".to_owned(), path)].into() };
        let (overrides, progress) = (Overrides::default(), Progress::new());
        ask_as(&caller, &overrides, &program, |_| {}, &progress, limit)
            .map_err(|error| error.to_string().replace(folder.path().to_str().unwrap(), "$T"))
    }

    #[test]
    fn a_podman_that_hangs_is_ended_with_all_it_started_and_named() {
        let start = std::time::Instant::now();
        let said = answer("sleep 60 & sleep 60", Duration::from_millis(300)).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(20));
        assert!(said.starts_with("$T/podman did not answer `podman info` within 0 seconds"), "{said}");
    }

    #[test]
    fn what_is_no_answer_is_shown_and_says_what_to_do() {
        let said = |script: &str| answer(script, LIMIT).unwrap_err();
        let other = said("echo hello there");
        assert!(other.starts_with("$T/podman info printed 'hello there', which does not say where"), "{other}");
        assert!(other.ends_with("put Podman 4.3 or newer first on PATH"), "{other}");
        for answer in
            ["{}", "[]", r#"{"store":{"graphRoot":"/g"}}"#, r#"{"host":{"security":{"rootless":false}},"store":{}}"#]
        {
            let said = said(&format!("echo '{answer}'"));
            assert!(said.contains(&format!("printed '{answer}', which does not say where")), "{said}");
        }
        let failed = said("echo 'Error: it is broken' >&2; exit 125");
        assert_eq!(failed, "`podman info` fails: it is broken; `podman info` shows it again; correct what it names");
        let debug = said(r#"echo 'toml: line 2: no' >&2; echo 'time="x" level=debug msg="bye"' >&2; exit 1"#);
        assert!(debug.starts_with("`podman info` fails: toml: line 2: no; "), "{debug}");
        let remote = said(
            r#"echo '{"host":{"serviceIsRemote":true,"security":{"rootless":false}},"store":{"graphRoot":"/g","runRoot":"/r","graphDriverName":"overlay"}}'"#,
        );
        assert!(remote.starts_with("$T/podman is a client of a Podman elsewhere"), "{remote}");
    }

    #[test]
    fn every_store_is_found_in_what_each_version_prints() {
        let debug = "time=\"x\" level=debug msg=\"overlay: imagestore=/a\"\ntime=\"x\" level=debug msg=\"overlay: imagestore=/b/\"\n";
        for (printed, expected) in [
            (r#"{"overlay.imagestore": "/b", "overlay.mountopt": "nodev"}"#, vec!["/a", "/b"]),
            (r#"{".imagestore": "/b"}"#, vec!["/a", "/b"]),
            (r#"{"overlay.additionalImageStores": ["/c", "/d"], "overlay.imagestore": "/d"}"#, vec!["/c", "/d"]),
            (r#"{"additionalImageStores": ["/c/../e"], "imagestore": "/d"}"#, vec!["/e"]),
            (r#"{"overlay.mount_program": {"Executable": "/usr/bin/f", "Package": "p"}}"#, vec![]),
        ] {
            let (stores, others) = options(serde_json::from_str(printed).unwrap(), debug);
            assert_eq!(stores, expected.iter().map(PathBuf::from).collect::<Vec<_>>(), "{printed}");
            assert!(others.iter().all(|(name, value)| matches!(
                (&**name, &**value),
                ("mountopt", "nodev") | ("mount_program", "/usr/bin/f")
            )));
        }
    }

    #[test]
    fn sentences_of_podman_lead_to_what_to_do() {
        let folder = tempfile::tempdir().unwrap();
        let conf = folder.path().join("s.conf");
        std::fs::write(&conf, "[storage.options]\nadditionalimagestores = ['/gone', 'rel']\n").unwrap();
        let caller = Caller::default();
        let files = ConfFiles { system: folder.path(), caller: &caller };
        let next = |said: &str| next(said, &files, Some(&conf)).replace(folder.path().to_str().unwrap(), "$T");
        let gone = "configure storage: overlay: can't stat imageStore dir /gone: stat /gone: no such file or directory";
        assert_eq!(next(gone), "`windlass doctor --fix --storage-dir /gone` makes it, or take it out of $T/s.conf");
        let relative = "overlay: image path \"rel\" is not absolute.  Can not be relative";
        assert_eq!(next(relative), "write the absolute path of the store instead of 'rel' in $T/s.conf");
        let file = next("overlay: image path \"/gone\" must be a directory");
        assert_eq!(file, "name a directory instead of '/gone' in $T/s.conf");
    }
}
