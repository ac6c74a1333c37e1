//! Whether a container of an image can start: its program is there, is made for its platform, and its user is known.
//!
//! | what | what a container engine says of it |
//! |---|---|
//! | `Entrypoint` or `Cmd` that is not in the image | `executable file not found in $PATH`, `no such file or directory` |
//! | a program, or what a script begins with, for another machine | `exec format error` |
//! | what loads a program, or a script's first line, is not in the image | `no such file or directory`, of a file that is there |
//! | a `User` by a name that /etc/passwd has not | `unable to find user` |
//!
//! A volume that is mounted can bring all of these, so they are warnings.
//!
//! Sources: execve(2), elf(5), the ELF gABI's table of machines; OCI image-spec (*config.md*).

use std::io;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::image::layout::ImageInMemory;
use crate::image::rootfs::{FoundFile, ImageRootFs, RecipeInLayer};
use crate::image::summary::ImageKind;
use crate::oci::compression::Compression;
use crate::oci::platform::Platform;

/// Where engines look for a program when an image says nothing.
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Bytes that the kernel reads of a program.
const START: u64 = 4096;
/// /etc/passwd and /etc/group are not larger.
const ACCOUNTS: u64 = 4 << 20;
/// Scripts that begin with scripts.
const SCRIPTS: usize = 4;

/// An image of one platform, as far as it matters to what it starts.
#[derive(Debug, Clone)]
pub(crate) struct ImageRun {
    pub(crate) name: String,
    /// What it runs on.
    pub(crate) platform: Platform,
    /// The `config` of its config.
    pub(crate) config: Map<String, Value>,
    /// Its layers, bottom first.
    pub(crate) layers: Vec<RecipeInLayer>,
}

impl ImageRun {
    /// What an image starts that was built here; nothing for one that was built elsewhere, which is as it came, and of models.
    #[must_use]
    pub(crate) fn of(image: &ImageInMemory) -> Vec<Self> {
        if image.summary.kind != ImageKind::Image {
            return Vec::new();
        }
        let platforms = image.summary.platforms.iter().filter_map(|record| {
            let config = image.small_blobs().find(|blob| blob.digest == record.config_digest)?;
            let mut config: Value = serde_json::from_slice(&config.bytes).ok()?;
            let layers = record.layers.iter().map(|layer| {
                let recipe = image.recipes.get(&layer.digest)?.clone();
                Some((recipe, Compression::of_media_type(layer.media_type().as_ref())?))
            });
            Some(Self {
                name: crate::oci::reference::file_name(&image.summary.name),
                platform: record.platform.clone(),
                config: config["config"].take().as_object().cloned().unwrap_or_default(),
                layers: layers.collect::<Option<_>>()?,
            })
        });
        platforms.collect()
    }

    /// What would keep a container of it from starting. What cannot be read is told by who needs its bytes.
    #[must_use]
    pub(crate) fn warnings(&self) -> Vec<String> {
        if self.platform.os != "linux" {
            return Vec::new();
        }
        let look = |archives| ImageRootFs::new(&self.layers, archives).and_then(|files| self.look(&files));
        match look(false) {
            // What was not found may be in layers that were not made here, which take longer to look at.
            Ok(warnings) if !warnings.is_empty() && ImageRootFs::has_archives(&self.layers) => {
                look(true).unwrap_or_default()
            }
            other => other.unwrap_or_default(),
        }
    }

    fn look(&self, files: &ImageRootFs<'_>) -> io::Result<Vec<String>> {
        let mut warnings = self.program(files)?;
        warnings.extend(self.user(files)?);
        Ok(warnings.into_iter().map(|warning| format!("image '{}' {warning}", self.name)).collect())
    }

    fn texts(&self, key: &str) -> Vec<&str> {
        self.config.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).collect()
    }

    fn program(&self, files: &ImageRootFs<'_>) -> io::Result<Vec<String>> {
        let first = ["Entrypoint", "Cmd"].into_iter().find_map(|key| Some((key, *self.texts(key).first()?)));
        let Some((key, program)) = first else { return Ok(Vec::new()) };
        let directory = self.config.get("WorkingDir").and_then(Value::as_str).filter(|text| !text.is_empty());
        let directory = Path::new("/").join(directory.unwrap_or("/"));
        if program.contains('/') {
            return match files.find(&directory.join(program)) {
                FoundFile::File { place, executable } => self.fits(files, (key, program), &place, executable),
                FoundFile::NoFile => Ok(vec![format!("starts '{program}' ({key}), which is not a file in it")]),
                FoundFile::Nothing => Ok(vec![format!(
                    "starts '{program}' ({key}), which is not in it: give the package in `contents`, or its place in the store, \
                     \"${{pkgs.hello}}/bin/hello\""
                )]),
            };
        }
        let env = self.texts("Env");
        let path = env.iter().rev().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or(PATH);
        for place in path.split(':').filter(|place| place.starts_with('/')) {
            if let FoundFile::File { place, executable: true } = files.find(&Path::new(place).join(program)) {
                return self.fits(files, (key, program), &place, true);
            }
        }
        Ok(vec![format!(
            "starts '{program}' ({key}), which is in no directory of its PATH ({path}): give the package in `contents`, or its place \
             in the store, \"${{pkgs.hello}}/bin/hello\""
        )])
    }

    /// What is wrong with a program that is there.
    fn fits(
        &self,
        files: &ImageRootFs<'_>,
        (key, program): (&str, &str),
        place: &Path,
        executable: bool,
    ) -> io::Result<Vec<String>> {
        let said = if place == Path::new(program) {
            format!("starts '{program}' ({key})")
        } else {
            format!("starts '{program}' ({key}), {},", place.display())
        };
        if !executable {
            return Ok(vec![format!("{said} which may not be executed: give its mode with `perms`, 0755")]);
        }
        let mut place = place.to_owned();
        for _ in 0..SCRIPTS {
            let Some(start) = files.read(&place, START)? else { break };
            let next = match Program::of(&start) {
                Program::Elf { machine, .. } if !is_of(machine, &self.platform.architecture) => {
                    return Ok(vec![format!(
                        "is for {}, and {} is a program for {}: build it from packages of that platform (pkgsCross), or say \
                         what it is with `architecture`",
                        self.platform,
                        place.display(),
                        name_of(machine)
                    )]);
                }
                Program::Elf { loader, .. } => loader,
                Program::Script(interpreter) => Some(interpreter),
                Program::Other => None,
            };
            let Some(next) = next else { break };
            match files.find(&next) {
                FoundFile::File { place: found, .. } => place = found,
                _ => {
                    return Ok(vec![format!(
                        "{said} which needs {}, and that is not in it: build the program with nixpkgs, which has all it needs in \
                         the store, or give what has that file in `contents`",
                        next.display()
                    )]);
                }
            }
        }
        Ok(Vec::new())
    }

    fn user(&self, files: &ImageRootFs<'_>) -> io::Result<Vec<String>> {
        let said = self.config.get("User").and_then(Value::as_str).unwrap_or_default();
        let (user, group) = said.split_once(':').map_or((said, None), |(user, group)| (user, Some(group)));
        let mut warnings = Vec::new();
        for (what, name, file) in [("User", user, "/etc/passwd"), ("group", group.unwrap_or_default(), "/etc/group")] {
            if name.is_empty() || name.parse::<u32>().is_ok() {
                continue;
            }
            let text = files.read(Path::new(file), ACCOUNTS)?.unwrap_or_default();
            let known = text.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b':').next());
            if !known.into_iter().any(|known| known == name.as_bytes()) {
                warnings.push(format!(
                    "has the {what} '{name}', which is not in its {file}: give the number, User = \"999:999\", or a {file} that has \
                     the name, in `texts`"
                ));
            }
        }
        Ok(warnings)
    }
}

/// What the kernel takes a file for.
#[derive(Debug, PartialEq, Eq)]
enum Program {
    /// For a machine by its number, and what loads it.
    Elf {
        machine: u16,
        loader: Option<PathBuf>,
    },
    /// What its first line names.
    Script(PathBuf),
    Other,
}

impl Program {
    fn of(start: &[u8]) -> Self {
        if let Some(rest) = start.strip_prefix(b"#!") {
            let line = rest.split(|byte| *byte == b'\n').next().unwrap_or_default().trim_ascii();
            let word = line.split(u8::is_ascii_whitespace).next().unwrap_or_default();
            return match std::str::from_utf8(word) {
                Ok(word) if word.starts_with('/') => Self::Script(word.into()),
                _ => Self::Other,
            };
        }
        elf(start).unwrap_or(Self::Other)
    }
}

/// The header of an ELF file, and of what loads it as far as the first bytes say.
fn elf(start: &[u8]) -> Option<Program> {
    if !start.starts_with(b"\x7fELF") {
        return None;
    }
    let (wide, little) = (*start.get(4)? == 2, *start.get(5)? == 1);
    let number = |at: usize, size: usize| -> Option<usize> {
        let bytes = start.get(at..at.checked_add(size)?)?;
        let add = |sum: usize, byte: &u8| sum.checked_mul(256)?.checked_add(usize::from(*byte));
        if little { bytes.iter().rev().try_fold(0, add) } else { bytes.iter().try_fold(0, add) }
    };
    let word = if wide { 8 } else { 4 };
    let machine = u16::try_from(number(18, 2)?).ok()?;
    let loader = || {
        let (table, size, count) = if wide {
            (number(32, 8)?, number(54, 2)?, number(56, 2)?)
        } else {
            (number(28, 4)?, number(42, 2)?, number(44, 2)?)
        };
        let header = (0..count).filter_map(|n| table.checked_add(n.checked_mul(size)?));
        // PT_INTERP.
        let header = header.into_iter().find(|at| number(*at, 4) == Some(3))?;
        let (offset, length) = if wide {
            (number(header + 8, word)?, number(header + 32, word)?)
        } else {
            (number(header + 4, word)?, number(header + 16, word)?)
        };
        let name = start.get(offset..offset.checked_add(length)?)?;
        let name = std::str::from_utf8(name.strip_suffix(b"\0").unwrap_or(name)).ok()?;
        name.starts_with('/').then(|| PathBuf::from(name))
    };
    Some(Program::Elf { machine, loader: loader() })
}

/// Machines of ELF, and what images call them; the first that an architecture has is its own, the others it runs as well.
const MACHINES: [(&str, &[u16]); 12] = [
    ("386", &[3]),
    ("amd64", &[62, 3]),
    ("arm", &[40]),
    ("arm64", &[183, 40]),
    ("loong64", &[258]),
    ("mips", &[8]),
    ("mips64le", &[8]),
    ("mipsle", &[8]),
    ("ppc64", &[21]),
    ("ppc64le", &[21]),
    ("riscv64", &[243]),
    ("s390x", &[22]),
];

/// Whether an architecture runs programs for a machine; of one that is not known here everything is.
fn is_of(machine: u16, architecture: &str) -> bool {
    MACHINES.iter().find(|(name, _)| *name == architecture).is_none_or(|(_, machines)| machines.contains(&machine))
}

fn name_of(machine: u16) -> String {
    let known = MACHINES.iter().find(|(_, machines)| machines.first() == Some(&machine));
    known.map_or_else(|| format!("machine {machine} of ELF"), |(name, _)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_told_by_their_first_bytes() {
        assert_eq!(Program::of(b"#! /bin/sh -e\nexec x"), Program::Script("/bin/sh".into()));
        assert_eq!(Program::of(b"#!sh\n"), Program::Other);
        assert_eq!(Program::of(b"echo"), Program::Other);
        let own = std::fs::read("/proc/self/exe").unwrap();
        let Program::Elf { machine, .. } = Program::of(&own[..4096]) else { panic!("this test is an ELF file") };
        assert!(is_of(machine, &Platform::default().architecture));
        assert!(!is_of(machine, "s390x") && is_of(machine, "unheard-of"));
        // Big-endian, 32 bits, without a table of program headers.
        let mut small = b"\x7fELF\x01\x02\x01".to_vec();
        small.resize(52, 0);
        small[19] = 8;
        assert_eq!(Program::of(&small), Program::Elf { machine: 8, loader: None });
        for length in 0..64 {
            drop(Program::of(&own[..length]));
        }
    }
}
