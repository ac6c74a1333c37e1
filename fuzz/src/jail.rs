//! A root directory of its own for one thread, so that what a reader of archives does as root can be seen, and cannot
//! reach the machine.
//!
//! ```text
//! /                 a tmpfs in a mount namespace of this thread alone; it goes away with the thread
//!   proc            the machine's, which cannot be written
//!   canary/         files of several owners and modes, links, an attribute: nothing of it may ever change
//!   place/beside     beside the workplace: likewise
//!   place/in         the workplace of one run
//! ```

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::mpsc::{Sender, channel};
use std::{fs, thread};

use rustix::fs::{XattrFlags, lgetxattr, llistxattr, lsetxattr};
use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_bind, mount_change, mount_remount};
use rustix::process::{chdir, chroot};
use rustix::thread::UnshareFlags;

/// The workplace.
pub(super) const WORKPLACE: &str = "/place/in";

type Work = Box<dyn FnOnce() + Send>;

/// Runs `work` in the jail, in an empty workplace, and panics if anything outside of it has changed, or if there is
/// another number of open files than before. Needs root.
pub(super) fn run<T: Send + 'static>(work: impl FnOnce(&Path) -> T + Send + 'static) -> T {
    static JAIL: OnceLock<Sender<Work>> = OnceLock::new();
    let jail = JAIL.get_or_init(|| {
        let (sender, receiver) = channel::<Work>();
        thread::spawn(move || {
            build();
            receiver.iter().for_each(|work| work());
        });
        sender
    });
    let (answer, answered) = channel();
    let work = move || {
        let watched = || {
            let workplace = Path::new(WORKPLACE);
            fs::create_dir(workplace).unwrap();
            let before = (outside(), open_files());
            let result = work(workplace);
            let after = (outside(), open_files());
            assert_eq!(after.0, before.0, "something outside of the workplace has changed");
            assert_eq!(after.1, before.1, "a file was left open");
            fs::remove_dir_all(workplace).unwrap();
            result
        };
        answer.send(catch_unwind(AssertUnwindSafe(watched))).unwrap();
    };
    jail.send(Box::new(work)).unwrap();
    answered.recv().expect("the jail could not be built").unwrap_or_else(|panic| resume_unwind(panic))
}

fn build() {
    // The tmpfs lies over a directory that this thread alone sees it on.
    let root = std::env::temp_dir();
    #[expect(
        deprecated,
        reason = "only with FILES would it be unsafe, and windlass forbids unsafe code in its tests too"
    )]
    rustix::thread::unshare(UnshareFlags::FS | UnshareFlags::NEWNS).expect("the jail needs root: sudo ./dev fuzz");
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    mount("windlass-fuzz", &root, "tmpfs", MountFlags::NODEV, c"mode=755,size=64m,nr_inodes=20000").unwrap();
    let proc = root.join("proc");
    fs::create_dir(&proc).unwrap();
    mount_bind("/proc", &proc).unwrap();
    mount_remount(&proc, MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
    chdir(&root).unwrap();
    chroot(".").unwrap();
    fs::create_dir_all("/place/beside").unwrap();
    fs::create_dir_all("/canary/closed").unwrap();
    for (path, content, mode) in [
        ("/place/beside/file", "beside\n", 0o644),
        ("/canary/file", "canary\n", 0o600),
        ("/canary/run", "#!/bin/sh\n", 0o4755),
        ("/canary/closed/secret", "secret\n", 0o400),
    ] {
        fs::write(path, content).unwrap();
        chown(path, Some(7), Some(8)).unwrap();
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    lsetxattr("/canary/file", "trusted.canary", b"here", XattrFlags::empty()).unwrap();
    fs::set_permissions("/canary/closed", fs::Permissions::from_mode(0o700)).unwrap();
    symlink("closed/secret", "/canary/link").unwrap();
}

/// Everything about a file but when it was read.
type Told = (u32, u32, u32, u64, u64, (i64, i64), Vec<u8>, Vec<u8>);

fn outside() -> BTreeMap<PathBuf, Told> {
    let mut told = BTreeMap::new();
    let mut pending = vec![PathBuf::from("/")];
    while let Some(path) = pending.pop() {
        let metadata = path.symlink_metadata().unwrap();
        let kind = metadata.file_type();
        let mut content = Vec::new();
        if kind.is_dir() {
            let inside = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path());
            pending.extend(inside.filter(|path| path != Path::new("/proc") && path != Path::new(WORKPLACE)));
        } else if kind.is_file() {
            content = fs::read(&path).unwrap();
        } else if kind.is_symlink() {
            content = fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes();
        }
        let (mut names, mut value) = (vec![0; 1024], vec![0; 256]);
        let listed = llistxattr(&path, &mut names).unwrap();
        names.truncate(listed);
        if let Ok(length) = lgetxattr(&path, "trusted.canary", &mut value) {
            names.extend(&value[..length]);
        }
        let m = &metadata;
        // How large the directory of the workplace is, and when it was changed, is the jail's own doing.
        let (size, changed) =
            if path == Path::new("/place") { (0, (0, 0)) } else { (m.size(), (m.mtime(), m.mtime_nsec())) };
        told.insert(path, (m.mode(), m.uid(), m.gid(), m.nlink(), size, changed, names, content));
    }
    told
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").unwrap().count()
}
