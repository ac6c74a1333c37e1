//! Who reaches root's linked store.
//!
//! Images have directories for all (`/tmp`, 1777) and files of other users, and in a store that is open these are every
//! user's to write to, on the host. So the store's own directory is its owner's alone (0700): root's Podman does not notice,
//! and no other user reaches anything in it.
//!
//! It can be shared, when that is asked for. Then it is mounted read-only over itself, as NixOS does with /nix/store, before it
//! is opened (0755); windlass writes through a view of the file system that is without that mount. At boot a mount unit of
//! systemd does it, or a line of /etc/fstab, before any user is there; on NixOS the module's own unit. A directory is as open
//! on the disk as it is below a mount, so where the mount is not made at boot the store would lie open: a second unit closes it
//! then (`OnFailure=`). After a line of /etc/fstab the next load does.

use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{fs, io};

use rustix::fs::{CWD, StatVfsMountFlags, fstatvfs};
use rustix::mount::{MountFlags, OpenTreeFlags, UnmountFlags, mount_bind, mount_remount, open_tree, unmount};
use rustix::process::geteuid;

use super::image_store;
use crate::disk::beneath::{Dir, refused};
use crate::disk::bounded::{self, Cap};
use crate::disk::{AtPath, WriteError};
use crate::podman::storage::conf_files::in_folder;
use crate::podman::storage::others::OtherUsers;

/// The mode of a store that is shared, and of one that is not.
const SHARED: u32 = 0o755;
const CLOSED: u32 = 0o700;

/// Who reaches what is in a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Its owner alone.
    Closed,
    /// Everybody, to read: it is mounted read-only.
    Shared,
    /// Everybody, and who may write to a directory of an image can do so.
    Open,
}

/// Who reaches what is in the store at `path`.
///
/// # Errors
/// If there is no lock.
pub(crate) fn state(path: &Path) -> Result<Sharing, WriteError> {
    let root = Dir::open(path)?;
    Ok(if root.stat()?.st_mode & 0o077 == 0 {
        Sharing::Closed
    } else if is_read_only(&root)? {
        Sharing::Shared
    } else {
        Sharing::Open
    })
}

/// The store at `path`, to write in: beside what is mounted over it.
///
/// # Errors
/// If it is not the caller's, others can write to it, or it is read-only for root too.
pub(crate) fn writable(path: &Path) -> Result<Dir, WriteError> {
    let root = Dir::open(path)?;
    root.is_private_to(geteuid().as_raw())?;
    if !is_read_only(&root)? {
        return Ok(root);
    }
    let real = fs::canonicalize(path).at("open", path)?;
    let (Some(parent), Some(name)) = (real.parent(), real.file_name()) else { return Ok(root) };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let view = open_tree(CWD, parent, flags).at("look beside the mount over", path)?;
    let beside = Dir::new(Dir::new(view, parent).dir(name)?.into_file(), path);
    let (one, two) = (root.stat()?, beside.stat()?);
    if (one.st_dev, one.st_ino) != (two.st_dev, two.st_ino) {
        return Err(refused(path, "something else is mounted over it"));
    }
    Ok(beside)
}

fn is_read_only(dir: &Dir) -> Result<bool, WriteError> {
    Ok(fstatvfs(dir).at("read", dir.path())?.f_flag.contains(StatVfsMountFlags::RDONLY))
}

/// Closes a store that an older windlass left open, or whose mount was not made; what was done, in words. `None` where there
/// is nothing to do. `new_rules` tells whether users read what /etc says of stores.
///
/// # Errors
/// If it cannot be closed.
pub(crate) fn settle(
    path: &Path,
    others: &OtherUsers,
    system: &Path,
    new_rules: bool,
) -> Result<Option<String>, WriteError> {
    if state(path)? != Sharing::Open {
        return Ok(None);
    }
    let store = path.display();
    let how = format!("`windlass doctor --share --storage-dir {store}` shares it with rootless users, read-only");
    if boot(path, system) == Boot::Unit && mount_over(path).is_ok() && state(path)? == Sharing::Shared {
        return Ok(Some(format!("{store} is shared, and was not mounted read-only: it is now")));
    }
    let open = "was open to every user of this host, who could write into directories of its images";
    let for_all = if new_rules { for_all_users(system) } else { Vec::new() };
    if let Some(conf) = others.naming(path, for_all).first() {
        return Ok(Some(format!(
            "{store} {open}, and still is: {} names it, and every command of that Podman would fail; {how}; or take it out \
             there, and `windlass doctor --close --storage-dir {store}`",
            conf.display()
        )));
    }
    writable(path)?.set_mode(CLOSED)?;
    Ok(Some(format!(
        "{store} {open}; now it is closed to all but its owner; {how}; `windlass verify --full` says whether it was written to"
    )))
}

/// What mounts a store at boot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Boot {
    /// A unit of ours.
    Unit,
    /// A line of /etc/fstab.
    Fstab,
    /// The unit of the NixOS module.
    Nixos,
    /// Nothing.
    Nothing,
}

/// What mounts the store at boot.
pub(crate) fn boot(path: &Path, system: &Path) -> Boot {
    let units = system.join("etc/systemd/system");
    let name = unit_name(path);
    if fs::symlink_metadata(units.join("local-fs.target.wants").join(&name)).is_ok() && units.join(&name).is_file() {
        return Boot::Unit;
    }
    let fstab = bounded::text(&system.join("etc/fstab"), Cap::List).unwrap_or_default();
    let is_it = |line: &str| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        matches!(fields[..], [_, target, _, options, ..] if Path::new(target) == path
            && options.split(',').any(|option| option == "ro") && options.split(',').any(|option| option == "bind"))
    };
    if fstab.lines().any(is_it) {
        return Boot::Fstab;
    }
    if system.join("etc/NIXOS").exists() { Boot::Nixos } else { Boot::Nothing }
}

/// Shares root's store with the rootless users of the host: read-only, now and after each boot. What was done, in words; nothing
/// where it is shared already.
///
/// # Errors
/// If the mount cannot be had, now or at boot: then the store stays closed.
pub(crate) fn share(path: &Path, system: &Path) -> Result<Vec<String>, WriteError> {
    let mut done = Vec::new();
    if !geteuid().is_root() {
        return Err(refused(path, "only root can share a store with other users"));
    }
    image_store::claim(path)?;
    let path = &fs::canonicalize(path).at("open", path)?;
    for above in path.ancestors().skip(1) {
        let found = fs::metadata(above).at("read", above)?;
        if found.uid() != 0 || (found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0) {
            return Err(refused(path, &format!("users other than root can rename it, in {}", above.display())));
        }
    }
    if state(path)? == Sharing::Open {
        // Until it is mounted.
        writable(path)?.set_mode(CLOSED)?;
    }
    let has_both = || system.join("etc/systemd/system").join(closing(&unit_name(path))).is_file();
    match boot(path, system) {
        Boot::Nothing => done.push(make_unit(path, system)?),
        // That of an older windlass.
        Boot::Unit if !has_both() => done.push(make_unit(path, system)?),
        Boot::Unit | Boot::Fstab | Boot::Nixos => {}
    }
    if !is_read_only(&Dir::open(path)?)? {
        mount_over(path)?;
        done.push(format!("mounted {} read-only over itself", path.display()));
    }
    if state(path)? != Sharing::Shared {
        writable(path)?.set_mode(SHARED)?;
        done.push(format!("opened {} for all users to read", path.display()));
    }
    Ok(done)
}

/// Ends what [`share`] did: the store is its owner's alone again. What was done, in words.
///
/// # Errors
/// With the path at fault.
pub(crate) fn close(path: &Path, system: &Path) -> Result<Vec<String>, WriteError> {
    let mut done = Vec::new();
    image_store::claim(path)?;
    let path = &fs::canonicalize(path).at("open", path)?;
    if state(path)? != Sharing::Closed {
        writable(path)?.set_mode(CLOSED)?;
        done.push(format!("closed {} to all but its owner", path.display()));
    }
    if boot(path, system) == Boot::Unit {
        let (units, name) = (system.join("etc/systemd/system"), unit_name(path));
        for file in [units.join("local-fs.target.wants").join(&name), units.join(&name), units.join(closing(&name))] {
            match fs::remove_file(&file) {
                // An older windlass wrote no unit that closes.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result.at("remove", &file)?,
            }
        }
        reload(system);
        done.push(format!("removed {}", units.join(&name).display()));
    }
    // Our mount and no other: the file system itself may be read-only.
    if geteuid().is_root() && is_read_only(&Dir::open(path)?)? && is_mounted_over(path) {
        unmount(path, UnmountFlags::DETACH).at("unmount", path)?;
        done.push(format!("unmounted {}", path.display()));
    }
    Ok(done)
}

/// Whether there is a mount at this very path.
fn is_mounted_over(path: &Path) -> bool {
    let mounts = bounded::text(Path::new("/proc/self/mountinfo"), Cap::List).unwrap_or_default();
    // Octal escapes stand for blanks there (proc_pid_mountinfo(5)).
    let escaped = path.to_string_lossy().replace('\\', "\\134").replace(' ', "\\040").replace('\t', "\\011");
    mounts.lines().any(|line| line.split(' ').nth(4) == Some(&escaped))
}

/// Mounts a store read-only over itself.
fn mount_over(path: &Path) -> Result<(), WriteError> {
    mount_bind(path, path).at("mount over itself", path)?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
    if let Err(error) = mount_remount(path, flags, "") {
        // A mount that can be written through is of no use.
        unmount(path, UnmountFlags::DETACH).ok();
        return Err(error).at("make read-only", path);
    }
    Ok(())
}

/// Writes the unit that mounts a store at boot, before anything that names it is started.
fn make_unit(path: &Path, system: &Path) -> Result<String, WriteError> {
    let units = system.join("etc/systemd/system");
    let text = path.to_str().filter(|text| !text.contains(char::is_control));
    let Some(text) = text.filter(|_| units.is_dir()) else {
        let line = format!("{0} {0} none bind,ro,nosuid,nodev 0 0", path.display());
        let why = format!(
            "this host has no {}, so nothing would mount it at boot: add '{line}' to /etc/fstab",
            units.display()
        );
        return Err(refused(path, &why));
    };
    let text = text.replace('%', "%%");
    let (name, wants) = (unit_name(path), units.join("local-fs.target.wants"));
    let head = "# Written by `windlass doctor --share`; `windlass doctor --close` removes it.\n[Unit]\nDescription=Linked store of \
                windlass, ";
    let closing = closing(&name);
    let unit = format!(
        "{head}read-only\nOnFailure={closing}\n\n[Mount]\nWhat={text}\nWhere={text}\nType=none\nOptions=bind,ro,nosuid,nodev\n\n\
         [Install]\nWantedBy=local-fs.target\n",
        closing = closing.replace('%', "%%"),
    );
    // A word of a command (systemd.service(5), "Command lines").
    let word = text.replace('\\', "\\\\").replace('"', "\\\"").replace('$', "$$");
    let close = format!(
        "{head}closed where that is not mounted\nDefaultDependencies=no\n\n[Service]\nType=oneshot\n\
         ExecStart=/bin/chmod {CLOSED:04o} -- \"{word}\"\n"
    );
    let dir = Dir::open(&units)?;
    dir.replace(&closing, close.as_bytes(), 0o644)?;
    dir.replace(&name, unit.as_bytes(), 0o644)?;
    fs::create_dir_all(&wants).at("create", &wants)?;
    let link = wants.join(&name);
    match symlink(Path::new("..").join(&name), &link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        result => result.at("create", &link)?,
    }
    reload(system);
    Ok(format!("wrote {}, which mounts it at boot", units.join(&name).display()))
}

/// Tells a systemd that runs of units that were changed; one that does not reads them when it starts.
fn reload(system: &Path) {
    if system.join("run/systemd/system").is_dir() {
        let mut command = Command::new("systemctl");
        drop(command.arg("daemon-reload").stdin(Stdio::null()).output());
    }
}

/// The name of the unit that closes a store when the unit that mounts it failed.
fn closing(mount: &str) -> String {
    format!("windlass-close-{}.service", mount.strip_suffix(".mount").unwrap_or(mount))
}

/// The name of the unit that mounts at a path (systemd.unit(5), "String Escaping for Inclusion in Unit Names").
fn unit_name(path: &Path) -> String {
    use std::os::unix::ffi::OsStrExt;
    let bytes = path.as_os_str().as_bytes();
    let trimmed = bytes.strip_prefix(b"/").unwrap_or(bytes);
    let escape = |(at, byte): (usize, &u8)| match byte {
        b'/' => "-".to_owned(),
        b'.' if at == 0 => "\\x2e".to_owned(),
        byte if byte.is_ascii_alphanumeric() || b":_.".contains(byte) => char::from(*byte).to_string(),
        byte => format!("\\x{byte:02x}"),
    };
    trimmed.iter().enumerate().map(escape).collect::<String>() + ".mount"
}

/// The settings files of the system that rootless users read too, by the new rules of containers-storage.
pub(crate) fn for_all_users(system: &Path) -> Vec<PathBuf> {
    let folders = ["etc/containers", "usr/share/containers"].map(|folder| system.join(folder));
    let main = folders.iter().map(|folder| folder.join("storage.conf")).find(|path| path.is_file());
    let mut files = Vec::from_iter(main);
    for folder in &folders {
        files.extend(in_folder(&folder.join("storage.conf.d")).unwrap_or_default());
        let rootless = folder.join("storage.rootless.conf.d");
        files.extend(in_folder(&rootless).unwrap_or_default());
        let users = fs::read_dir(rootless).into_iter().flatten().flatten();
        files.extend(users.flat_map(|user| in_folder(&user.path()).unwrap_or_default()));
    }
    files
}

impl OtherUsers {
    /// The settings files of rootless users, and of `more`, that name a store.
    pub(crate) fn naming(&self, store: &Path, more: Vec<PathBuf>) -> Vec<PathBuf> {
        let mut files = more;
        for home in self.homes() {
            let folder = home.join(".config/containers");
            files.push(folder.join("storage.conf"));
            // Who has too many is not looked for, and breaks no Podman but their own.
            files.extend(in_folder(&folder.join("storage.conf.d")).unwrap_or_default());
        }
        let names_it = |file: &PathBuf| {
            let conf = crate::podman::storage::storage_conf::StorageConf::read(file).ok().flatten();
            let stores = conf.map(|conf| conf.additional).unwrap_or_default();
            stores
                .iter()
                .any(|named| Path::new(named) == store || fs::canonicalize(named).is_ok_and(|named| named == *store))
        };
        files.retain(names_it);
        files
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_called_as_systemd_calls_them() {
        for (path, name) in [
            ("/nix/var/windlass/storage", "nix-var-windlass-storage.mount"),
            ("/srv/a-b/c d/.e", "srv-a\\x2db-c\\x20d-.e.mount"),
            ("/.x", "\\x2ex.mount"),
        ] {
            assert_eq!(unit_name(Path::new(path)), name);
        }
    }

    #[test]
    fn an_open_store_that_users_are_told_of_is_not_closed_under_them() {
        use std::os::unix::fs::PermissionsExt;
        let host = tempfile::tempdir().unwrap();
        let store = host.path().join("store");
        image_store::create(&store).unwrap();
        let others = OtherUsers { passwd: host.path().join("passwd"), ..OtherUsers::default() };
        let mode = || fs::metadata(&store).unwrap().mode() & 0o777;
        let open = || fs::set_permissions(&store, fs::Permissions::from_mode(SHARED)).unwrap();
        let text = format!("[storage.options]\nadditionalimagestores = [\"{}\", {{append = true}}]\n", store.display());
        for name in [
            "storage.conf",
            "storage.conf.d/x.conf",
            "storage.rootless.conf.d/x.conf",
            "storage.rootless.conf.d/9/x.conf",
        ] {
            let file = host.path().join("etc/containers").join(name);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, &text).unwrap();
            open();
            let said = settle(&store, &others, host.path(), true).unwrap().unwrap();
            assert!(mode() == SHARED && said.contains(file.to_str().unwrap()), "{said}");
            // By the old rules it is root's file alone.
            let said = settle(&store, &others, host.path(), false).unwrap().unwrap();
            assert!(mode() == CLOSED && said.contains("now it is closed"), "{said}");
            fs::remove_file(file).unwrap();
        }
        // What only root reads keeps no store open.
        let rootful = host.path().join("etc/containers/storage.rootful.conf.d");
        fs::create_dir_all(&rootful).unwrap();
        fs::write(rootful.join("x.conf"), &text).unwrap();
        open();
        settle(&store, &others, host.path(), true).unwrap().unwrap();
        assert_eq!(mode(), CLOSED);
    }

    #[test]
    fn what_mounts_at_boot_is_found() {
        let system = tempfile::tempdir().unwrap();
        let store = Path::new("/nix/var/windlass/storage");
        assert_eq!(boot(store, system.path()), Boot::Nothing);
        let said = make_unit(store, system.path()).unwrap_err().to_string();
        assert!(said.contains("add '/nix/var/windlass/storage /nix/var/windlass/storage none bind,ro,"), "{said}");
        fs::create_dir_all(system.path().join("etc/systemd/system")).unwrap();
        make_unit(store, system.path()).unwrap();
        assert_eq!(boot(store, system.path()), Boot::Unit);
        fs::remove_dir_all(system.path().join("etc/systemd")).unwrap();
        fs::write(
            system.path().join("etc/fstab"),
            "# x\n/nix/var/windlass/storage /nix/var/windlass/storage none bind,ro 0 0\n",
        )
        .unwrap();
        assert_eq!(boot(store, system.path()), Boot::Fstab);
    }
}
