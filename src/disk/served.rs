//! Files that lie on no disk: their bytes are made when another program reads them.
//!
//! A file system of our own (FUSE) that no directory shows: it is mounted nowhere, and reached through a descriptor of this
//! process, `/proc/PID/fd/N/NAME`. However this process ends, the descriptor goes, and with it all of it: nothing is left to be
//! cleaned up. A file is made from its beginning to its end, as what reads it takes it, so that nothing is held in memory; who
//! reads it in another order gets the right bytes too, made once more.
//!
//! The kernel reads ahead, as of any file, so that the next bytes are made while the program works on the last ones, and asks for much at
//! a time: each question costs as much as to copy some ten kilobytes. Large files are read into the answer, and copied no further.
//!
//! Beside the files there may be a directory for the [copies](super::scratch) that the other program makes of them.
//!
//! Needs root, and `/dev/fuse`.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::sync::OnceLock;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen};
use rustix::process::geteuid;

use super::pieces::PieceSender;
use super::progress::Progress;
use super::scratch::Scratch;
use super::server::Server;
use crate::oci::digest::Digest;

/// The name of the directory for copies.
pub(crate) const COPIES: &str = "copies";

/// A file that is made while it is read.
pub(crate) struct ServedFile<'a> {
    pub(crate) name: String,
    /// How many bytes it has. What its maker gives beyond that is passed over.
    pub(crate) size: u64,
    /// What a copy of it must have.
    pub(crate) digest: Digest,
    /// Makes them, until no more are wanted.
    pub(crate) make: Box<dyn Fn(PieceSender) + Sync + 'a>,
}

/// A place for such files, without any so far.
#[derive(Debug)]
pub struct ServedPlace {
    fuse: File,
    mount: OwnedFd,
    scratch: Option<Scratch>,
}

impl ServedPlace {
    /// Makes one; with a folder for what is written there and is no copy, one that has a directory for copies.
    ///
    /// # Errors
    /// If this user may not, or the kernel cannot.
    pub(crate) fn new(folder: Option<PathBuf>) -> io::Result<Self> {
        // In a container of a user the programs that are to read it may be in another one.
        if !geteuid().is_root() {
            return Err(ErrorKind::PermissionDenied.into());
        }
        let fuse = OpenOptions::new().read(true).write(true).open("/dev/fuse")?;
        let place = fsopen("fuse", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let number = fuse.as_raw_fd().to_string();
        let settings =
            [("source", "windlass"), ("fd", &number), ("rootmode", "40000"), ("user_id", "0"), ("group_id", "0")];
        settings.into_iter().try_for_each(|(key, value)| fsconfig_set_string(&place, key, value))?;
        fsconfig_create(&place)?;
        let mut attributes =
            MountAttrFlags::MOUNT_ATTR_NOEXEC | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
        if folder.is_none() {
            attributes |= MountAttrFlags::MOUNT_ATTR_RDONLY;
        }
        let mount = fsmount(&place, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
        Ok(Self { fuse, mount, scratch: folder.map(Scratch::new) })
    }

    /// Whether there can be one: tried out once.
    #[must_use]
    pub fn is_possible() -> bool {
        static POSSIBLE: OnceLock<bool> = OnceLock::new();
        *POSSIBLE.get_or_init(|| Self::new(None).is_ok())
    }

    /// Where another program of this user finds a file, while it is [served](Self::serve).
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        let (process, mount) = (std::process::id(), self.mount.as_raw_fd());
        PathBuf::from(format!("/proc/{process}/fd/{mount}/{name}"))
    }

    /// Where it may write its copies.
    pub(crate) fn copies(&self) -> Option<PathBuf> {
        self.scratch.is_some().then(|| self.path(COPIES))
    }

    /// Serves these files for as long as `work` goes on.
    ///
    /// # Errors
    /// If there is no pipe to be had; then the work was not begun.
    pub(crate) fn serve<T>(
        self,
        files: &[ServedFile<'_>],
        progress: &Progress,
        work: impl FnOnce() -> T,
    ) -> io::Result<T> {
        let (stopped, stop) = io::pipe()?;
        let Self { fuse, mount, scratch } = self;
        Ok(std::thread::scope(|scope| {
            let server = Server::new(fuse, files, scratch, progress);
            scope.spawn(move || server.run(scope, &stopped));
            let done = work();
            // Whatever still has a file open gets an error from now on.
            drop((stop, mount));
            done
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::os::unix::fs::FileExt;

    use rustix::io::Errno;

    use super::*;

    fn bytes(seed: u32, size: u32) -> Vec<u8> {
        (0..size).map(|n| (n.wrapping_mul(seed) >> 3) as u8).collect()
    }

    #[test]
    fn what_is_served_is_read_in_any_order_and_gone_afterwards() {
        if !ServedPlace::is_possible() {
            return;
        }
        let (one, two) = (bytes(77, 3_000_001), bytes(99, 70_000));
        let serve = |name: &str, bytes: &[u8]| {
            let (bytes, whole) = (bytes.to_vec(), bytes.to_vec());
            let make = Box::new(move |mut to: PieceSender| {
                let mut large = tempfile::tempfile().unwrap();
                large.write_all(&bytes[..bytes.len() / 2]).unwrap();
                let (first, rest) = bytes.split_at(bytes.len() / 2);
                let given = to
                    .file(&large, first.len() as u64)
                    .and_then(|()| rest.chunks(999).try_for_each(|part| to.bytes(part)));
                drop(given.and_then(|()| to.finish()));
            });
            ServedFile { name: name.to_owned(), size: 0, digest: Digest::of(&whole), make }
        };
        let mut files = [serve("one", &one), serve("two", &two), serve("short", &two)];
        [files[0].size, files[1].size, files[2].size] = [one.len() as u64, two.len() as u64, two.len() as u64 + 1];
        let place = ServedPlace::new(None).unwrap();
        let path = |name: &str| place.path(name);
        let [first, second, short, other] = ["one", "two", "short", "three"].map(path);
        let left = first.clone();
        place
            .serve(&files, &Progress::new(), move || {
                assert!(std::fs::read(&first).unwrap() == one && std::fs::read(&second).unwrap() == two);
                assert_eq!(std::fs::metadata(&first).unwrap().len(), one.len() as u64);
                let file = File::open(&first).unwrap();
                let twice = File::open(&first).unwrap();
                for (at, size) in [(1000, 5000), (2_000_000, 500_000), (7, 100), (0, 1), (2_999_000, 1001)] {
                    for file in [&file, &twice] {
                        let mut found = vec![0; size];
                        file.read_exact_at(&mut found, at).unwrap();
                        assert!(found == one[at as usize..][..size], "{at}");
                    }
                }
                assert_eq!(file.read_at(&mut [0; 10], one.len() as u64).unwrap(), 0);
                assert_eq!(file.read_at(&mut [0; 10], 1 << 40).unwrap(), 0);
                // Less than was promised is an error, and not the end.
                assert_eq!(std::fs::read(&short).unwrap_err().raw_os_error(), Some(Errno::IO.raw_os_error()));
                assert_eq!(File::open(&other).unwrap_err().kind(), ErrorKind::NotFound);
                assert!(OpenOptions::new().write(true).open(&first).is_err());
            })
            .unwrap();
        assert!(File::open(left).is_err());
    }

    /// Serves a file with these bytes, which are others when it is made the third time; with what is written elsewhere in `folder`.
    fn with_copies(bytes: &[u8], third: &[u8], folder: PathBuf, work: impl FnOnce(PathBuf, PathBuf)) {
        let times = std::sync::atomic::AtomicUsize::new(0);
        let make = |mut to: PieceSender| {
            let is_third = times.fetch_add(1, std::sync::atomic::Ordering::SeqCst) == 2;
            let given = if is_third { third } else { bytes }.chunks(10_000).try_for_each(|part| to.bytes(part));
            drop(given.and_then(|()| to.finish()));
        };
        let digest = Digest::of(bytes);
        let files = [ServedFile { name: "layer".into(), size: bytes.len() as u64, digest, make: Box::new(make) }];
        let place = ServedPlace::new(Some(folder)).unwrap();
        let (layer, copies) = (place.path("layer"), place.copies().unwrap());
        place.serve(&files, &Progress::new(), || work(layer, copies)).unwrap();
    }

    fn copy(from: &PathBuf, to: &PathBuf) -> io::Result<u64> {
        let mut made = OpenOptions::new().write(true).create_new(true).open(to)?;
        io::copy(&mut io::Read::take(File::open(from)?, u64::MAX), &mut made)
    }

    #[test]
    fn a_copy_takes_no_place_and_is_read_again() {
        if !ServedPlace::is_possible() {
            return;
        }
        let bytes = bytes(77, 3_000_001);
        // What is no copy finds no folder.
        with_copies(&bytes, &bytes, "/no/such/folder".into(), |layer, copies| {
            let folder = copies.join("storage1");
            std::fs::create_dir(&folder).unwrap();
            assert_eq!(std::fs::create_dir(&folder).unwrap_err().kind(), ErrorKind::AlreadyExists);
            let name = folder.join("1");
            assert_eq!(copy(&layer, &name).unwrap(), bytes.len() as u64);
            assert_eq!(std::fs::metadata(&name).unwrap().len(), bytes.len() as u64);
            assert!(std::fs::read(&name).unwrap() == bytes && std::fs::read(&name).unwrap() == bytes);
            assert_eq!(std::fs::write(folder.join("2"), "other").unwrap_err().kind(), ErrorKind::NotFound);
            assert!(OpenOptions::new().write(true).open(&layer).is_err());
            // More names than one answer has.
            for n in 0..3000 {
                drop(File::create(folder.join(format!("empty-{n:05}"))).unwrap());
            }
            assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 3002);
            std::fs::read_dir(&folder).unwrap().for_each(|entry| std::fs::remove_file(entry.unwrap().path()).unwrap());
            assert_eq!(std::fs::read_dir(&folder).unwrap().count(), 0);
            std::fs::remove_dir_all(&folder).unwrap();
            assert_eq!(File::open(&name).unwrap_err().kind(), ErrorKind::NotFound);
        });
    }

    #[test]
    fn what_is_no_copy_is_kept_and_half_a_copy_is_an_error() {
        if !ServedPlace::is_possible() {
            return;
        }
        let (whole, folder) = (bytes(77, 300_001), tempfile::tempdir().unwrap());
        with_copies(&whole, &whole, folder.path().to_owned(), |layer, copies| {
            let other = bytes(99, 70_000);
            std::fs::write(copies.join("other"), &other).unwrap();
            assert!(std::fs::read(copies.join("other")).unwrap() == other);
            // One that begins as a copy, one that is longer than it, and one that ends too early.
            let served = File::open(&layer).unwrap();
            let write = |name: &str, all: &[u8]| {
                let mut file = File::create(copies.join(name)).unwrap();
                all.chunks(32_000).try_for_each(|part| file.write_all(part)).map_err(|error| error.raw_os_error())
            };
            let wrong = Some(Errno::IO.raw_os_error());
            assert_eq!(write("begins", &[&whole[..200_000], &other].concat()), Err(wrong));
            assert_eq!(write("longer", &[&whole[..], b"x"].concat()), Err(wrong));
            assert_eq!(write("half", &whole[..200_000]), Ok(()));
            assert_eq!(std::fs::read(copies.join("half")).unwrap_err().raw_os_error(), wrong);
            drop(served);
            std::fs::write(copies.join("half"), "again").unwrap();
            assert_eq!(std::fs::read(copies.join("half")).unwrap(), b"again");
        });
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_copy_of_what_has_changed_meanwhile_has_no_end() {
        if !ServedPlace::is_possible() {
            return;
        }
        let (one, two) = (bytes(77, 3_000_001), bytes(99, 3_000_001));
        // Made once to be copied, once to be compared, and once to be read again.
        with_copies(&one, &two, "/no/such/folder".into(), |layer, copies| {
            copy(&layer, &copies.join("1")).unwrap();
            let error = std::fs::read(copies.join("1")).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(Errno::IO.raw_os_error()));
        });
    }

    #[test]
    fn copies_of_files_that_begin_alike_are_told_apart() {
        if !ServedPlace::is_possible() {
            return;
        }
        let begin = bytes(77, 100_000);
        let all = [1, 2, 3].map(|n| [&begin[..], &[n; 50_000]].concat());
        let file = |n: &usize| {
            let bytes = &all[*n];
            let make = |mut to: PieceSender| drop(to.bytes(bytes).and_then(|()| to.finish()));
            ServedFile {
                name: n.to_string(),
                size: bytes.len() as u64,
                digest: Digest::of(bytes),
                make: Box::new(make),
            }
        };
        let files: Vec<ServedFile<'_>> = [0, 1, 2].iter().map(file).collect();
        let place = ServedPlace::new(Some("/no/such/folder".into())).unwrap();
        let (served, copies) = ([0, 1, 2].map(|n| place.path(&n.to_string())), place.copies().unwrap());
        let work = || {
            let open = served.each_ref().map(|path| File::open(path).unwrap());
            for (n, served) in served.iter().enumerate() {
                copy(served, &copies.join(n.to_string())).unwrap();
            }
            for (n, bytes) in all.iter().enumerate() {
                assert!(std::fs::read(copies.join(n.to_string())).unwrap() == *bytes, "{n}");
            }
            drop(open);
        };
        place.serve(&files, &Progress::new(), work).unwrap();
    }
}
