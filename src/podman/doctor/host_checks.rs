//! What of a host, beside Podman's own settings, makes loading fast, safe, or impossible.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use rustix::fs::{Access, AtFlags, CWD, StatxFlags, access, ioctl_ficlone, statx};

use super::leftovers::leftovers;
use super::{CheckState, Doctor, HostCheck};
use crate::disk::bounded::{self, Cap};
use crate::disk::files::free_space;

/// All of them; `temporary` is where Podman puts layers while it loads.
pub(crate) fn checks(doctor: &Doctor<'_>, temporary: Option<PathBuf>) -> Vec<HostCheck> {
    let mut checks = vec![nix(doctor)];
    // The store itself, or the directory it would be made in.
    let there = doctor.store.ancestors().find(|path| path.is_dir());
    if let Some(there) = there {
        checks.push(links(doctor, there));
        checks.extend(reflink(there));
        checks.extend(free(there));
    }
    if !doctor.is_root() {
        checks.extend(subordinate_ids(doctor));
    }
    checks.extend(prunes(doctor));
    checks.extend(leftovers(doctor, temporary));
    checks
}

/// Links are made inside of one file system, by root, and through a clone of the mount where that differs.
fn links(doctor: &Doctor<'_>, there: &Path) -> HostCheck {
    const NAME: &str = "links";
    let (store, nix) = (there.display(), doctor.nix_store.display());
    let device = |path: &Path| fs::metadata(path).ok().map(|metadata| metadata.dev());
    let mount = |path: &Path| statx(CWD, path, AtFlags::empty(), StatxFlags::MNT_ID).ok().map(|stat| stat.stx_mnt_id);
    if device(doctor.nix_store).is_none() || device(there) != device(doctor.nix_store) {
        let message = format!("{store} is on another file system than {nix}: files are copied, not linked");
        let fix = format!("--storage-dir with a directory on the file system of {nix}");
        return HostCheck::new(NAME, CheckState::Warning, message, fix);
    }
    if !doctor.is_root() {
        let message =
            format!("only root may make hard links to files of {nix}: files are shared by reflink, or copied");
        return HostCheck::new(
            NAME,
            CheckState::Note,
            message,
            "`sudo windlass load …` fills a store that all users share",
        );
    }
    if mount(there) == mount(doctor.nix_store) {
        return HostCheck::ok(NAME, format!("{store} takes hard links to files of {nix}"));
    }
    if has_sys_admin(doctor.system) {
        return HostCheck::ok(
            NAME,
            format!("{store} takes hard links to files of {nix}, a mount of its own, through open_tree"),
        );
    }
    let message = format!("{nix} is a mount of its own, and linking across needs CAP_SYS_ADMIN: files are copied");
    HostCheck::new(NAME, CheckState::Warning, message, "run windlass with CAP_SYS_ADMIN")
}

fn has_sys_admin(system: &Path) -> bool {
    const SYS_ADMIN: u32 = 21;
    let status = bounded::text(&system.join("proc/self/status"), Cap::List).unwrap_or_default();
    let set = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    set.and_then(|set| u64::from_str_radix(set.trim(), 16).ok()).is_some_and(|set| set >> SYS_ADMIN & 1 == 1)
}

fn reflink(there: &Path) -> Option<HostCheck> {
    const NAME: &str = "reflink";
    let files = tempfile::tempfile_in(there).and_then(|one| Ok((one, tempfile::tempfile_in(there)?)));
    let store = there.display();
    match files {
        Ok((one, other)) if ioctl_ficlone(&one, &other).is_ok() => {
            Some(HostCheck::ok(NAME, format!("the file system of {store} shares data between files")))
        }
        Ok(_) => {
            let message = format!("the file system of {store} cannot share data: what cannot be linked is copied");
            Some(HostCheck::new(NAME, CheckState::Note, message, "XFS and Btrfs can"))
        }
        // A store that another program fills.
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem) => {
            None
        }
        Err(error) => Some(HostCheck::new(NAME, CheckState::Problem, format!("write to {store}: {error}"), "")),
    }
}

fn free(there: &Path) -> Option<HostCheck> {
    let free = free_space(there).ok()?;
    let message = format!("{} free for {}", gigabytes(free), there.display());
    if free < 1_000_000_000 {
        return Some(HostCheck::new("free space", CheckState::Warning, message, "free some"));
    }
    Some(HostCheck::ok("free space", message))
}

pub(super) fn gigabytes(bytes: u64) -> String {
    format!("{}.{} GB", bytes / 1_000_000_000, bytes / 100_000_000 % 10)
}

fn nix(doctor: &Doctor<'_>) -> HostCheck {
    const NAME: &str = "nix";
    let store = doctor.nix_store.display();
    if !doctor.nix_store.is_dir() {
        return HostCheck::new(
            NAME,
            CheckState::Warning,
            format!("there is no {store}: nothing can be linked"),
            "install Nix",
        );
    }
    let roots = doctor.nix_store.with_file_name("var").join("nix/gcroots/auto");
    if access(&roots, Access::WRITE_OK).is_ok() {
        return HostCheck::ok(
            NAME,
            format!("{store} is there, and {} takes the roots of generations", roots.display()),
        );
    }
    if doctor.on_path("nix-store").is_some() {
        return HostCheck::ok(NAME, format!("{store} is there, and nix-store makes the roots of generations"));
    }
    let message =
        format!("{} is not writable, and nix-store is not on PATH: nothing keeps store paths", roots.display());
    HostCheck::new(NAME, CheckState::Warning, message, "put nix-store on PATH")
}

/// A rootless Podman maps the users of an image to ranges of its user's.
fn subordinate_ids(doctor: &Doctor<'_>) -> Vec<HostCheck> {
    let uid = doctor.caller.uid.to_string();
    let read = |name: &str| bounded::text(&doctor.system.join("etc").join(name), Cap::List).unwrap_or_default();
    let field = |line: &str, n: usize| line.split(':').nth(n).map(str::to_owned);
    let passwd = read("passwd");
    let user = passwd.lines().find(|line| field(line, 2).as_deref() == Some(&uid)).and_then(|line| field(line, 0));
    let user = user.unwrap_or_else(|| uid.clone());
    let elsewhere = read("nsswitch.conf").lines().any(|line| line.trim_start().starts_with("subid:"));
    let range = |name: &'static str, option: &str| {
        let ranges = read(name);
        let own = ranges.lines().filter(|line| field(line, 0).is_some_and(|owner| owner == user || owner == uid));
        let count: u64 = own.filter_map(|line| field(line, 2)?.trim().parse::<u64>().ok()).sum();
        let fix = format!("`sudo usermod {option} 100000-165535 {user}`, with a range that no other user has");
        match count {
            65536.. => HostCheck::ok(name, format!("user {user} has {count} ids in /etc/{name}")),
            _ if elsewhere => {
                HostCheck::new(name, CheckState::Note, format!("/etc/nsswitch.conf says where user {user} has ids"), "")
            }
            0 => HostCheck::new(name, CheckState::Problem, format!("user {user} has no range in /etc/{name}"), fix),
            _ => HostCheck::new(
                name,
                CheckState::Warning,
                format!("user {user} has only {count} ids in /etc/{name}"),
                fix,
            ),
        }
    };
    let mappers = ["newuidmap", "newgidmap"].map(|name| mapper(doctor, name));
    [vec![range("subuid", "--add-subuids"), range("subgid", "--add-subgids")], mappers.into()].concat()
}

/// A program that maps ids for other users: it needs root's rights, by its set-user-ID bit or by a capability.
fn mapper(doctor: &Doctor<'_>, name: &'static str) -> HostCheck {
    let Some(path) = doctor.on_path(name) else {
        return HostCheck::new(
            name,
            CheckState::Problem,
            format!("{name} is not on PATH"),
            "install uidmap or shadow-utils",
        );
    };
    let is_root = fs::metadata(&path).is_ok_and(|found| found.uid() == 0 && found.mode() & 0o4000 != 0);
    let has_capability = || rustix::fs::getxattr(&path, "security.capability", &mut [0; 64]).is_ok();
    if is_root || has_capability() {
        return HostCheck::ok(name, path.display().to_string());
    }
    let message =
        format!("{} has neither the set-user-ID bit nor a capability, so that Podman cannot use it", path.display());
    let fix = if doctor.is_nixos() {
        format!("put /run/wrappers/bin first on PATH: {name} is there")
    } else {
        format!("install uidmap or shadow-utils, and put the directory of its {name} first on PATH")
    };
    HostCheck::new(name, CheckState::Problem, message, fix)
}

/// Regular jobs that delete every image that no container uses.
fn prunes(doctor: &Doctor<'_>) -> Vec<HostCheck> {
    const PLACES: [&str; 7] =
        ["systemd/system", "systemd/user", "cron.d", "cron.hourly", "cron.daily", "cron.weekly", "cron.monthly"];
    let etc = doctor.system.join("etc");
    let entries = PLACES.iter().flat_map(|place| fs::read_dir(etc.join(place)).into_iter().flatten().flatten());
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.path()).chain([etc.join("crontab")]).collect();
    files.sort();
    let mut checks = Vec::new();
    for file in files {
        let Some(line) = pruning_line(doctor.system, &file) else { continue };
        let (what, option) = match has_word(&line, "--volumes") || has_word(&line, "volume") {
            true => ("the volumes of stopped services, with their data", "--volumes"),
            false => ("pulled images; linked ones stay", "--all"),
        };
        let message = format!("{} runs `{line}`: it deletes {what}", file.display());
        let fix = match () {
            () if doctor.is_nixos() => format!("take {option} out of virtualisation.podman.autoPrune.flags"),
            () if has_word(&line, "volume") => format!("take the line out of {}", file.display()),
            () => format!("take {option} out of {}", file.display()),
        };
        checks.push(HostCheck::new("prune", CheckState::Warning, message, fix));
    }
    checks
}

/// The words of a command, without the quotes around them.
fn words(line: &str) -> impl Iterator<Item = &str> {
    line.split_whitespace().map(|word| word.trim_matches(['"', '\'', ';']))
}

/// Whether a command has a word, be it the end of a path or of a setting.
fn has_word(line: &str, wanted: &str) -> bool {
    words(line).any(|word| word.rsplit(['/', '=']).next() == Some(wanted))
}

/// A line of a unit or cron file, or of the script that a unit starts, that prunes all images.
fn pruning_line(system: &Path, file: &Path) -> Option<String> {
    let prunes = |line: &&str| {
        let has = |wanted: &str| has_word(line, wanted);
        let short = |word: &str| word.starts_with('-') && !word.starts_with("--") && word.contains('a');
        let all = has("--all") || words(line).any(short);
        let images = (has("system") || has("image")) && all;
        let volumes = has("volume") || (has("system") && has("--volumes"));
        !line.starts_with('#') && has("podman") && has("prune") && (images || volumes)
    };
    let text = bounded::text(file, Cap::Settings).ok()?;
    let command = |line: &str| line.strip_prefix("ExecStart=").unwrap_or(line).trim().to_owned();
    if let Some(line) = text.lines().map(str::trim).find(prunes) {
        return Some(command(line));
    }
    // NixOS writes a script of its own for each unit.
    let script = text.lines().find_map(|line| line.trim().strip_prefix("ExecStart="))?.split_whitespace().next()?;
    let script = bounded::text(&system.join(script.trim_start_matches('/')), Cap::Settings).ok()?;
    script.lines().map(str::trim).find(prunes).map(command)
}

#[cfg(test)]
mod tests {
    use crate::podman::storage::places::Caller;
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::disk::progress::Progress;
    use crate::podman::storage::places::Overrides;

    /// What `look` says of a system with these files, whose root is then `$T`.
    fn on(files: &[(&str, &str)], look: impl Fn(&Doctor<'_>) -> Vec<HostCheck>) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        let system = folder.path();
        for (name, text) in files {
            let path = system.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let caller = Caller { uid: 12345, home: None, variables: [("PATH".to_owned(), String::new())].into() };
        let (store, overrides) = (system.join("store"), Overrides::default());
        let progress = Progress::new();
        let doctor = Doctor {
            caller: &caller,
            overrides: &overrides,
            store: &store,
            nix_store: &store,
            system,
            progress: &progress,
        };
        let text = |check: HostCheck| {
            let fix = check.fix.unwrap_or_default();
            format!("{:?} {}: {} | {fix}", check.state, check.check, check.message)
                .replace(system.to_str().unwrap(), "$T")
        };
        look(&doctor).into_iter().map(text).collect()
    }

    #[test]
    fn jobs_that_delete_all_images_are_found() {
        let unit = "[Service]\nExecStart=/bin/podman system prune -f --all\n";
        let files = [
            ("etc/systemd/system/podman-prune.service", unit),
            ("etc/systemd/system/a.service", "ExecStart=/bin/podman system prune -f\n# podman system prune -a\n"),
            ("etc/systemd/system/script.service", "ExecStart=/nix/store/x/bin/start --now\n"),
            ("nix/store/x/bin/start", "#!/bin/sh\n/nix/store/p/bin/podman system prune -f '--all'\n"),
            ("etc/cron.weekly/clean", "podman image prune -af\n"),
            ("etc/cron.daily/other", "docker system prune -af\n"),
        ];
        let says = |file: &str, line: &str, fix: &str| {
            format!("Warning prune: $T/etc/{file} runs `{line}`: it deletes pulled images; linked ones stay | {fix}")
        };
        let out = |file: &str| format!("take --all out of $T/etc/{file}");
        let found = [
            says("cron.weekly/clean", "podman image prune -af", &out("cron.weekly/clean")),
            says(
                "systemd/system/podman-prune.service",
                "/bin/podman system prune -f --all",
                &out("systemd/system/podman-prune.service"),
            ),
            says(
                "systemd/system/script.service",
                "/nix/store/p/bin/podman system prune -f '--all'",
                &out("systemd/system/script.service"),
            ),
        ];
        assert_eq!(on(&files, prunes), found);
        let volumes = [
            ("etc/cron.d/data", "0 3 * * * root podman volume prune -f\n"),
            ("etc/cron.daily/all", "podman system prune --volumes --force\n"),
        ];
        let lost = |file: &str, line: &str, fix: &str| {
            let what = "the volumes of stopped services, with their data";
            format!("Warning prune: $T/etc/{file} runs `{line}`: it deletes {what} | {fix} $T/etc/{file}")
        };
        assert_eq!(
            on(&volumes, prunes),
            [
                lost("cron.d/data", "0 3 * * * root podman volume prune -f", "take the line out of"),
                lost("cron.daily/all", "podman system prune --volumes --force", "take --volumes out of"),
            ]
        );
        let nixos = on(&[files[0], ("etc/NIXOS", "")], prunes);
        assert!(nixos[0].ends_with("| take --all out of virtualisation.podman.autoPrune.flags"), "{nixos:?}");
    }

    #[test]
    fn a_program_that_maps_ids_needs_roots_rights() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("newuidmap");
        fs::write(&path, "#!/bin/sh\n").unwrap();
        let look = |mode: u32| {
            fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let variables = [("PATH".to_owned(), folder.path().to_str().unwrap().to_owned())].into();
            let (caller, progress) = (Caller { uid: 12345, home: None, variables }, Progress::new());
            let (store, overrides) = (folder.path(), Overrides::default());
            let (nix_store, system) = (store, store);
            let doctor =
                Doctor { caller: &caller, overrides: &overrides, store, nix_store, system, progress: &progress };
            let found = mapper(&doctor, "newuidmap");
            (found.state, found.message)
        };
        let (state, message) = look(0o755);
        assert_eq!(state, CheckState::Problem);
        assert!(message.ends_with("has neither the set-user-ID bit nor a capability, so that Podman cannot use it"));
        // The bit is of use on a program of root's.
        let expected = if fs::metadata(&path).unwrap().uid() == 0 { CheckState::Ok } else { CheckState::Problem };
        assert_eq!(look(0o4755).0, expected);
    }

    #[test]
    fn ranges_of_a_rootless_user_are_counted() {
        let passwd = ("etc/passwd", "root:x:0:0::/root:/bin/sh\nw:x:12345:12345::/home/w:/bin/sh\n");
        let found = on(
            &[passwd, ("etc/subuid", "x:1:65536\nw:100000:1000\n12345:300000:64536\n"), ("etc/subgid", "w:1:9\n")],
            subordinate_ids,
        );
        assert_eq!(found[0], "Ok subuid: user w has 65536 ids in /etc/subuid | ");
        assert!(
            found[1].starts_with("Warning subgid: user w has only 9 ids in /etc/subgid | `sudo usermod --add-subgids ")
        );
        assert_eq!(found[2], "Problem newuidmap: newuidmap is not on PATH | install uidmap or shadow-utils");
        assert_eq!(found[3], "Problem newgidmap: newgidmap is not on PATH | install uidmap or shadow-utils");
        let none = on(&[passwd], subordinate_ids);
        assert!(
            none[0].starts_with("Problem subuid: user w has no range in /etc/subuid | `sudo usermod --add-subuids ")
        );
        let elsewhere = on(&[passwd, ("etc/nsswitch.conf", "subid: sss\n")], subordinate_ids);
        assert_eq!(elsewhere[0], "Note subuid: /etc/nsswitch.conf says where user w has ids | ");
    }

    #[test]
    fn only_what_is_older_than_any_podman_is_left_over() {
        let layers = [
            ("var/tmp/storage123/layer", "x"),
            ("var/tmp/container_images_storage9/a/b", "x"),
            ("var/tmp/storage/x", "x"),
        ];
        let look = |doctor: &Doctor<'_>| leftovers(doctor, None).into_iter().collect();
        let names = "$T/var/tmp/container_images_storage9 $T/var/tmp/storage123";
        let left = format!("Note leftovers: loads that were killed have left 0.0 GB in {names} | `rm -rf {names}`");
        assert_eq!(on(&layers, look), std::slice::from_ref(&left));
        let process = |name: &str, ticks: u64| format!("7 ({name}) S 1{} {ticks} 0 0", " 0".repeat(17));
        let beside = |process: &str| {
            let files = [&layers[..], &[("proc/stat", "cpu 1\nbtime 1000\n"), ("proc/7/stat", process)]].concat();
            on(&files, look)
        };
        assert_eq!(beside(&process("podman", 100)), Vec::<String>::new(), "it may be at work there");
        for wrapped in [".podman-wrapped", ".skopeo-wrapped", ".buildah-wrappe"] {
            assert_eq!(beside(&process(wrapped, 100)), Vec::<String>::new(), "{wrapped} may be at work there");
        }
        assert_eq!(beside(&process("podman", 1 << 50)), std::slice::from_ref(&left));
        assert_eq!(beside(&process(".git-wrapped", 100)), std::slice::from_ref(&left));
        assert_eq!(beside(&process("bash", 100)), [left]);
    }
}
