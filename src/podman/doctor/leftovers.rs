//! What killed loads have left in temporary directories.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rustix::fs::FileType;

use super::host_checks::gigabytes;
use super::{CheckState, Doctor, HostCheck};
use crate::disk::beneath::Dir;
use crate::disk::bounded::{self, Cap};
use crate::disk::walk::walk;
use crate::sh;
/// How many leftovers are told of at a time.
const MOST_LEFTOVERS: usize = 20;

/// What killed loads have left: nothing else removes it.
pub(super) fn leftovers(doctor: &Doctor<'_>, temporary: Option<PathBuf>) -> Option<HostCheck> {
    let variable = doctor.caller.variables.get("TMPDIR").filter(|path| !path.is_empty());
    let mut folders = vec![variable.map_or_else(|| doctor.system.join("var/tmp"), PathBuf::from)];
    folders.extend(temporary);
    folders.sort();
    folders.dedup();
    let oldest = oldest_podman(doctor.system);
    let stale = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        // Anyone makes anything there, and the names go into a command: only digits follow in a name of Podman's.
        let number = name.strip_prefix("container_images_").unwrap_or(&name).strip_prefix("storage");
        number.is_some_and(|rest| !rest.is_empty() && rest.bytes().all(|byte| byte.is_ascii_digit()))
            && fs::symlink_metadata(path).is_ok_and(|m| m.is_dir() && oldest.is_none_or(|oldest| m.mtime() < oldest))
    };
    let entries = folders.iter().flat_map(|folder| fs::read_dir(folder).into_iter().flatten().flatten());
    let mut found: Vec<PathBuf> = entries.map(|entry| entry.path()).filter(stale).collect();
    found.sort();
    found.truncate(MOST_LEFTOVERS);
    if found.is_empty() {
        return None;
    }
    let bytes: u64 = found.iter().map(|path| bytes_below(path)).sum();
    let names: Vec<String> = found.iter().map(|path| path.display().to_string()).collect();
    let message = format!("loads that were killed have left {} in {}", gigabytes(bytes), names.join(" "));
    let remove = sh::line(["rm", "-rf"].into_iter().chain(names.iter().map(String::as_str)));
    Some(HostCheck::new("leftovers", CheckState::Note, message, format!("`{remove}`")))
}

fn bytes_below(folder: &Path) -> u64 {
    let mut sum = 0;
    if let (Some(Ok(parent)), Some(name)) = (folder.parent().map(Dir::open), folder.file_name())
        && let Ok(tree) = parent.dir(name)
    {
        let mut add = |found: &rustix::fs::Stat| sum += u64::try_from(found.st_blocks).unwrap_or(0) * 512;
        // What cannot be read is not counted.
        drop(walk(tree, &mut |_, _, found| {
            if FileType::from_raw_mode(found.st_mode) != FileType::Directory {
                add(found);
            }
        }));
    }
    sum
}

/// A program's name as its package has it: nixpkgs starts many by a wrapper, and the process is `.podman-wrapped` then, of which
/// the kernel keeps 15 bytes.
fn unwrapped(process: &str) -> &str {
    process.strip_prefix('.').and_then(|name| name.split_once("-wrappe")).map_or(process, |(name, _)| name)
}

/// When the oldest process was started, in seconds since 1970, that may own such a directory.
fn oldest_podman(system: &Path) -> Option<i64> {
    let proc = system.join("proc");
    let stat = bounded::text(&proc.join("stat"), Cap::List).ok()?;
    let boot: i64 = stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    let ticks = i64::try_from(rustix::param::clock_ticks_per_second()).ok()?;
    let started = |entry: fs::DirEntry| {
        let stat = bounded::text(&entry.path().join("stat"), Cap::List).ok()?;
        // "PID (NAME) S …": the name may have anything in it; the start is the 20th field after it.
        let (head, tail) = stat.rsplit_once(')')?;
        let name = unwrapped(head.split_once('(')?.1);
        ["podman", "skopeo", "buildah"].contains(&name).then_some(())?;
        Some(boot + tail.split_whitespace().nth(19)?.parse::<i64>().ok()? / ticks)
    };
    fs::read_dir(proc).ok()?.flatten().filter_map(started).min()
}
