//! What Podman has answered, kept so that a second load starts no process.
//!
//! The answer is good as long as nothing has changed that it can depend on: the podman that is run, the user, the variables,
//! every settings file and drop-in folder of the old and the new rules, absent ones too, Podman's database, and the
//! directories that the answer names. Whatever changes there, and whatever is wrong with the memory itself, only means that
//! Podman is asked again.
//!
//! The memory belongs to one user: it is in a directory that others cannot enter, and a file that others could have written
//! is not read.

use std::fmt::Write as _;
use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};

use super::ask::on_path;
use super::conf_files::{ConfFiles, in_folder};
use super::places::{Caller, Overrides, Places};
use crate::disk::bounded::{self, Cap};
use crate::oci::digest::Digest;

const VERSION: u32 = 1;
/// More files than one user has Podmans.
const MOST: usize = 64;
/// Podman's databases, which remember its driver and places. Only that they are there, and the same files, matters.
const DATABASES: [&str; 2] = ["db.sql", "libpod/bolt_state.db"];
const PREFIXES: [&str; 5] = ["STORAGE_", "CONTAINERS_", "CONTAINER_", "_CONTAINERS_", "PODMAN_"];
const NAMES: [&str; 6] = ["HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "XDG_CACHE_HOME", "TMPDIR"];

#[derive(Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct MemoryFile {
    version: u32,
    fingerprint: String,
    places: Places,
}

/// The memory of what one Podman has answered, as the host is at this moment.
pub(crate) struct Memory {
    file: PathBuf,
    settings: String,
}

impl Memory {
    /// Looks at the host; `None` where nothing can be kept.
    pub(crate) fn of(caller: &Caller, overrides: &Overrides) -> Option<Self> {
        Self::in_folder(folder(caller)?, Path::new("/"), caller, overrides)
    }

    fn in_folder(folder: PathBuf, system: &Path, caller: &Caller, overrides: &Overrides) -> Option<Self> {
        let podman = on_path(caller, "podman")?;
        // What tells one Podman of this user from another.
        let mut who = format!("{} {podman:?} {overrides:?} {:?}\n", caller.uid, caller.home);
        let counts = |name: &str| NAMES.contains(&name) || PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        for (name, value) in caller.variables.iter().filter(|(name, _)| counts(name)) {
            let _ = writeln!(who, "{name}={value:?}");
        }
        let mut settings = who.clone();
        let mut add = |what: &dyn std::fmt::Debug, seen: String| {
            let _ = writeln!(settings, "{what:?} {seen}");
        };
        add(&"boot", content(&system.join("proc/sys/kernel/random/boot_id")));
        for program in programs(&podman) {
            add(&program, identity(&program));
        }
        // It decides the driver of a rootless Podman.
        add(&"fuse-overlayfs", on_path(caller, "fuse-overlayfs").map(|path| identity(&path)).unwrap_or_default());
        add(&"session", identity(&system.join(format!("run/user/{}", caller.uid))));
        let files = ConfFiles { system, caller };
        for name in ["storage", "containers"] {
            files.mains(name).iter().for_each(|main| add(main, content(main)));
            for folder in files.drop_in_folders(name) {
                add(&folder, identity(&folder).split(' ').next().unwrap_or_default().to_owned());
                in_folder(&folder).unwrap_or_default().iter().for_each(|file| add(file, content(file)));
            }
        }
        let named = caller
            .variables
            .iter()
            .filter(|(name, _)| name.starts_with("CONTAINERS_"))
            .map(|(_, value)| Path::new(value));
        for file in named.chain(overrides.storage_conf.as_deref()).filter(|path| path.is_absolute()) {
            add(&file, content(file));
        }
        let file = folder.join(format!("{}.json", &Digest::of(who.as_bytes()).hex()[..32]));
        Some(Self { file, settings })
    }

    /// What Podman has answered, if it would answer the same now.
    pub(crate) fn recall(&self) -> Option<Places> {
        private(self.file.parent()?)?;
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        let mut file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(&self.file).ok()?;
        let metadata = file.metadata().ok()?;
        let is_mine = metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o022 == 0;
        if !metadata.is_file() || !is_mine {
            return None;
        }
        let bytes = bounded::rest(&mut file, Cap::Settings).ok()?;
        let kept: MemoryFile = serde_json::from_slice(&bytes).ok()?;
        (kept.version == VERSION && kept.fingerprint == self.fingerprint(&kept.places)).then_some(kept.places)
    }

    /// Keeps an answer to a question that was asked after the host was looked at. That it cannot be kept is not an error.
    pub(crate) fn keep(&self, places: &Places) {
        let _ = self.write(places);
    }

    /// Takes away what is kept.
    pub(crate) fn forget(&self) {
        drop(fs::remove_file(&self.file));
    }

    fn write(&self, places: &Places) -> Option<()> {
        let folder = self.file.parent()?;
        let parent = folder.parent()?;
        // Beside it are secrets of services, which have a directory of their own.
        DirBuilder::new().recursive(true).mode(if geteuid().is_root() { 0o755 } else { 0o700 }).create(parent).ok()?;
        drop(DirBuilder::new().mode(0o700).create(folder));
        private(folder)?;
        make_room(folder);
        let kept = MemoryFile { version: VERSION, fingerprint: self.fingerprint(places), places: places.clone() };
        let mut new = tempfile::NamedTempFile::new_in(folder).ok()?;
        new.write_all(&serde_json::to_vec(&kept).ok()?).ok()?;
        new.persist(&self.file).ok().map(drop)
    }

    fn fingerprint(&self, places: &Places) -> String {
        let mut text = self.settings.clone();
        let databases = DATABASES.map(|name| places.graph_root.join(name));
        for path in databases.iter().chain([&places.graph_root]).chain(&places.image_stores) {
            let _ = writeln!(text, "{path:?} {}", place(path));
        }
        Digest::of(text.as_bytes()).to_string()
    }
}

/// Where this user's memory is.
fn folder(caller: &Caller) -> Option<PathBuf> {
    let variable = |name: &str| {
        let set = caller.variables.get(name).map(PathBuf::from);
        set.filter(|path| path.is_absolute() && path.is_dir())
    };
    // Answers for another user are not kept.
    if caller.uid != geteuid().as_raw() {
        return None;
    }
    let is_root = caller.uid == 0 && !caller.variables.contains_key("_CONTAINERS_ROOTLESS_UID");
    let base =
        if is_root { Some("/run".into()) } else { variable("XDG_RUNTIME_DIR").or_else(|| variable("XDG_CACHE_HOME")) };
    let base = base.or_else(|| Some(caller.home.as_ref()?.join(".cache")))?;
    Some(base.join("windlass/podman"))
}

/// Whether a directory is this user's alone.
fn private(folder: &Path) -> Option<()> {
    let metadata = fs::symlink_metadata(folder).ok()?;
    let is_mine = metadata.uid() == geteuid().as_raw() && metadata.mode() & 0o077 == 0;
    (metadata.is_dir() && is_mine).then_some(())
}

/// Removes the oldest files where there are too many.
fn make_room(folder: &Path) {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let mut files: Vec<_> =
        entries.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    if files.len() > MOST {
        files.sort();
        files.iter().take(files.len() - MOST / 2).for_each(|(_, path)| drop(fs::remove_file(path)));
    }
}

/// The program itself, and what a script in its place runs.
fn programs(podman: &Path) -> Vec<PathBuf> {
    let mut programs: Vec<PathBuf> = fs::canonicalize(podman).into_iter().collect();
    if let Some(program) = programs.first() {
        let mut start = [0; 2];
        let is_script =
            bounded::open(program).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *b"#!";
        let text = if is_script { bounded::read(program, Cap::Settings).unwrap_or_default() } else { Vec::new() };
        let text = String::from_utf8_lossy(&text).into_owned();
        let words =
            text.split(|c: char| c.is_whitespace() || "\"'`;()|&=".contains(c)).filter(|word| word.starts_with('/'));
        programs.extend(words.filter_map(|word| fs::canonicalize(word).ok()).filter(|path| path.is_file()));
    }
    programs
}

/// A settings file by what is in it.
fn content(path: &Path) -> String {
    match bounded::read(path, Cap::Settings) {
        Ok(bytes) => Digest::of(&bytes).hex(),
        Err(error) if error.kind() == ErrorKind::FileTooLarge => identity(path),
        Err(error) => error.kind().to_string(),
    }
}

/// A file by all that changes when it is written or replaced.
fn identity(path: &Path) -> String {
    fs::metadata(path).map_or_else(
        |error| error.kind().to_string(),
        |seen| {
            let (changed, modified) = ((seen.ctime(), seen.ctime_nsec()), (seen.mtime(), seen.mtime_nsec()));
            format!("{:o} {} {} {} {changed:?} {modified:?}", seen.mode(), seen.dev(), seen.ino(), seen.len())
        },
    )
}

/// A directory or database by whether it is the same one.
fn place(path: &Path) -> String {
    fs::metadata(path).map_or_else(
        |error| error.kind().to_string(),
        |seen| format!("{:o} {} {} {}", seen.mode(), seen.uid(), seen.dev(), seen.ino()),
    )
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    struct TestHost {
        folder: tempfile::TempDir,
        caller: Caller,
        overrides: Overrides,
    }

    impl TestHost {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = |name: &str| folder.path().join(name);
            for name in ["bin", "home/.config/containers", "etc/containers/storage.conf.d", "graph/libpod", "store"] {
                fs::create_dir_all(path(name)).unwrap();
            }
            fs::write(path("real-podman"), "x").unwrap();
            fs::write(path("bin/podman"), format!("#!/bin/sh\nexec {}/real-podman \"$@\"\n", folder.path().display()))
                .unwrap();
            fs::set_permissions(path("bin/podman"), PermissionsExt::from_mode(0o755)).unwrap();
            let variables = [("PATH".to_owned(), path("bin").display().to_string())].into();
            let caller = Caller { uid: geteuid().as_raw(), home: Some(path("home")), variables };
            Self { caller, folder, overrides: Overrides::default() }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.folder.path().join(name)
        }

        fn memory(&self) -> Memory {
            Memory::in_folder(self.path("memory/podman"), self.folder.path(), &self.caller, &self.overrides).unwrap()
        }

        fn places(&self) -> Places {
            Places {
                graph_root: self.path("graph"),
                run_root: "/r".into(),
                driver: "overlay".to_owned(),
                image_stores: vec![self.path("store")],
                separate_store: None,
                driver_options: [("mountopt".to_owned(), "nodev".to_owned())].into(),
                temporary: None,
                conf: None,
                rootless: false,
            }
        }
    }

    #[test]
    fn an_answer_is_good_until_anything_changes_that_it_depends_on() {
        let mut host = TestHost::new();
        let places = host.places();
        type HostChange = Box<dyn Fn(&mut TestHost)>;
        let mut changes: Vec<(&str, HostChange)> = Vec::new();
        let writes = [
            "real-podman",
            "bin/podman",
            "bin/fuse-overlayfs",
            "home/.config/containers/storage.conf",
            "home/.config/containers/containers.conf",
            "etc/containers/storage.conf",
            "etc/containers/storage.conf.d/9.conf",
            "etc/containers/storage.rootful.conf.d/9.conf",
            "etc/containers/storage.rootless.conf.d/9.conf",
            "etc/containers/containers.conf.d/9.conf",
            "usr/share/containers/storage.conf",
            "usr/share/containers/storage.conf.d/9.conf",
            "usr/share/containers/storage.rootful.conf.d/9.conf",
            "named.conf",
            "graph/db.sql",
            "graph/libpod/bolt_state.db",
        ];
        for name in writes {
            changes.push((
                name,
                Box::new(move |host: &mut TestHost| {
                    let path = host.path(name);
                    fs::create_dir_all(path.parent().unwrap()).unwrap();
                    let old = fs::read_to_string(&path).unwrap_or_default();
                    fs::write(&path, old + "\n# changed\n").unwrap();
                    fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
                }),
            ));
        }
        let uid = host.caller.uid;
        changes.push((
            "the user's own folder",
            Box::new(move |host| {
                let folder = host.path(&format!("etc/containers/storage.rootless.conf.d/{uid}"));
                fs::create_dir(&folder).unwrap();
                fs::write(folder.join("x.conf"), "").unwrap();
            }),
        ));
        changes.push((
            "a folder that is made",
            Box::new(|host| {
                fs::create_dir(host.path("home/.config/containers/storage.conf.d")).unwrap();
            }),
        ));
        changes.push(("the store goes", Box::new(|host| fs::remove_dir(host.path("store")).unwrap())));
        changes.push((
            "the graph root is another",
            Box::new(|host| {
                fs::rename(host.path("graph"), host.path("old")).unwrap();
                fs::create_dir(host.path("graph")).unwrap();
            }),
        ));
        for variable in
            ["STORAGE_DRIVER", "STORAGE_OPTS", "CONTAINERS_CONF", "XDG_DATA_HOME", "XDG_RUNTIME_DIR", "TMPDIR"]
        {
            changes.push((
                variable,
                Box::new(move |host| {
                    host.caller.variables.insert(variable.to_owned(), "/x".to_owned());
                }),
            ));
        }
        changes.push(("--root", Box::new(|host| host.overrides.root = Some("/x".into()))));
        let named = host.path("named.conf").display().to_string();
        host.caller.variables.insert("CONTAINERS_STORAGE_CONF".to_owned(), named);
        for (name, change) in changes {
            assert_eq!(host.memory().recall(), None, "before {name}");
            host.memory().keep(&places);
            assert_eq!(host.memory().recall().as_ref(), Some(&places), "before {name}");
            change(&mut host);
            assert_eq!(host.memory().recall(), None, "{name}");
        }
        // What has nothing to do with it.
        fs::write(host.path("graph/db.sql"), "one").unwrap();
        host.memory().keep(&places);
        host.caller.variables.insert("EDITOR".to_owned(), "vi".to_owned());
        fs::write(host.path("etc/containers/policy.json"), "{}").unwrap();
        fs::write(host.path("graph/db.sql"), "more").unwrap();
        assert_eq!(host.memory().recall(), Some(places));
    }

    #[test]
    fn a_memory_that_others_could_have_written_or_that_is_torn_is_not_believed() {
        let host = TestHost::new();
        let (memory, places) = (host.memory(), host.places());
        memory.keep(&places);
        let good = fs::read(&memory.file).unwrap();
        assert_eq!(fs::metadata(&memory.file).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(memory.file.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
        let mode = |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
        for end in [0, 1, good.len() / 2, good.len() - 1] {
            fs::write(&memory.file, &good[..end]).unwrap();
            assert_eq!(memory.recall(), None, "{end} bytes");
        }
        fs::write(&memory.file, vec![b' '; 2 << 20]).unwrap();
        assert_eq!(memory.recall(), None, "too large");
        fs::write(&memory.file, &good).unwrap();
        assert_eq!(memory.recall().as_ref(), Some(&places));
        mode(&memory.file, 0o666);
        assert_eq!(memory.recall(), None, "writable by all");
        mode(&memory.file, 0o600);
        let folder = memory.file.parent().unwrap();
        mode(folder, 0o777);
        assert_eq!(memory.recall(), None, "in a folder of all");
        memory.keep(&places);
        assert_eq!(memory.recall(), None, "and nothing is kept there");
        mode(folder, 0o700);
        fs::rename(&memory.file, host.path("elsewhere")).unwrap();
        symlink(host.path("elsewhere"), &memory.file).unwrap();
        assert_eq!(memory.recall(), None, "a link");
        fs::remove_file(&memory.file).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &memory.file, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(memory.recall(), None, "a pipe");
        memory.keep(&places);
        assert_eq!(memory.recall().as_ref(), Some(&places), "and it is mended");
        if geteuid().is_root() {
            std::os::unix::fs::chown(&memory.file, Some(12345), None).unwrap();
            assert_eq!(memory.recall(), None, "another user's");
        }
        for n in 0..200 {
            fs::write(folder.join(format!("{n}.json")), "").unwrap();
        }
        memory.keep(&places);
        assert!(fs::read_dir(folder).unwrap().count() <= MOST + 1 && memory.recall().is_some());
    }
}
