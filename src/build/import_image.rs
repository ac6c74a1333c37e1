//! Images that other programs wrote: archives of `docker save`, `podman save`, skopeo and dockerTools, and OCI directories.
//!
//! An archive is unpacked to an OCI directory ([`unpack`]); of that one image is taken, as it came ([`upstream`]). What it is
//! called in there, and for which platform it is, picks it when there are several.
//!
//! Sources: OCI image-spec 1.1 (*image-layout.md*, *image-index.md*), and *image/spec/v1.2.md* of moby for docker-archives.
//!
//! Reproducibility: a docker-archive has no manifest, and gets one: a function of its config and its layers.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::build::upstream_image::platform_of;
use crate::class::{Class, Classified};
use crate::disk::bounded::{self, Cap};
use crate::disk::progress::Progress;
use crate::layer::padding;
use crate::layer::tar_reader::{self, TarMemberKind};
use crate::oci::canonical;
use crate::oci::compression::Compression;
use crate::oci::digest::{Digest, Hasher};
use crate::oci::strict::{self, DocumentKind};
use crate::spec::{OciSpec, UpstreamSpec};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEXES: [&str; 2] =
    ["application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json"];
/// What an index calls an image: by the OCI's rule, and by containerd's.
const NAMES: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
/// Indexes within indexes.
const DEPTH: usize = 4;

/// Why an image that was written by another program cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {message}", path = path.display())]
pub(crate) struct ImportImageError {
    /// The archive or the directory.
    path: PathBuf,
    message: String,
}

impl Classified for ImportImageError {
    fn class(&self) -> Class {
        Class::Failed
    }
}

/// An entry of `manifest.json` in a docker-archive.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// A file of an archive, where it was put.
#[derive(Debug, Clone)]
struct Put {
    digest: Digest,
    size: u64,
    compression: Compression,
}

/// Unpacks an archive into an OCI directory; `directory` exists and is empty.
///
/// # Errors
/// If it is neither a docker-archive nor an OCI archive, or cannot be read or written.
pub(crate) fn unpack(archive: &Path, directory: &Path, progress: &Progress) -> Result<(), ImportImageError> {
    let wrong = |message: String| ImportImageError { path: archive.to_owned(), message };
    let reading = |error: io::Error| wrong(format!("cannot be read: {error}"));
    let blobs = directory.join("blobs/sha256");
    fs::create_dir_all(&blobs).map_err(|error| wrong(format!("create {}: {error}", blobs.display())))?;
    let file = bounded::open(archive).map_err(reading)?;
    let compression = Compression::of_file(&file).map_err(reading)?;
    let mut stream = compression.decoder(file).map_err(reading)?;
    let mut files: BTreeMap<PathBuf, Put> = BTreeMap::new();
    let mut links: BTreeMap<PathBuf, PathBuf> = BTreeMap::new();
    while let Some(member) = tar_reader::next(&mut stream).map_err(|error| {
        wrong(format!("{error}; an image is given as a docker-archive, an OCI archive or an OCI directory"))
    })? {
        let path = member.path();
        match &member.kind {
            TarMemberKind::File if member.sparse.is_some() => {
                return Err(wrong(format!("{} is stored with holes, which no image archive is", path.display())));
            }
            TarMemberKind::File => {
                let put = put(&mut stream, member.size, &blobs, progress).map_err(reading)?;
                files.insert(path, put);
            }
            TarMemberKind::Symlink(target) => {
                let from = path.parent().unwrap_or(Path::new(""));
                drop(links.insert(path.clone(), tar_reader::clean(&joined(from, target))));
            }
            TarMemberKind::Link(target) => drop(links.insert(path, tar_reader::clean(target))),
            _ => {}
        }
        let rest = padding(member.size);
        io::copy(&mut stream.by_ref().take(rest), &mut io::sink()).map_err(reading)?;
    }
    let find = |name: &Path| {
        let mut name = name;
        // Docker has written layers that are the same as links.
        for _ in 0..DEPTH {
            match links.get(name) {
                Some(target) => name = target,
                None => break,
            }
        }
        files.get(name)
    };
    let whole = |name: &str| {
        find(Path::new(name)).map(|put| bounded::read(&blobs.join(put.digest.hex()), Cap::Config)).transpose()
    };
    let index = match (whole("index.json").map_err(reading)?, whole("manifest.json").map_err(reading)?) {
        (Some(index), _) if find(Path::new("oci-layout")).is_some() => index,
        (_, Some(saved)) => {
            let saved: Vec<Saved> = serde_json::from_slice(&saved)
                .map_err(|error| wrong(format!("its manifest.json is not one of a docker-archive: {error}")))?;
            let mut entries = Vec::new();
            for image in &saved {
                let lacks = |name: &str| wrong(format!("has no {name}, which its manifest.json names"));
                let put_of = |name: &str| find(&tar_reader::clean(name.as_bytes())).cloned().ok_or_else(|| lacks(name));
                let config = put_of(&image.config)?;
                let layers = image.layers.iter().map(|name| put_of(name)).collect::<Result<Vec<_>, _>>()?;
                let manifest = manifest(&config, &layers);
                let digest = Digest::of(manifest.as_bytes());
                fs::write(blobs.join(digest.hex()), &manifest).map_err(reading)?;
                let entry = |name: Option<&String>| {
                    let names = name.map(|name| json!({ NAMES[0]: name }));
                    json!({ "mediaType": MANIFEST, "digest": digest, "size": manifest.len(), "annotations": names.unwrap_or(json!({})) })
                };
                let tags = image.repo_tags.as_deref().unwrap_or_default();
                entries.extend(tags.iter().map(|tag| entry(Some(tag))));
                if tags.is_empty() {
                    entries.push(entry(None));
                }
            }
            canonical::to_string(&json!({ "schemaVersion": 2, "manifests": entries })).into_bytes()
        }
        _ => {
            let message = "is a tar file without manifest.json and without oci-layout: neither a docker-archive nor an OCI archive";
            return Err(wrong(message.to_owned()));
        }
    };
    for (name, bytes) in [("index.json", index), ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec())] {
        let file = directory.join(name);
        fs::write(&file, bytes).map_err(|error| wrong(format!("write {}: {error}", file.display())))?;
    }
    Ok(())
}

/// The manifest that a docker-archive has not.
fn manifest(config: &Put, layers: &[Put]) -> String {
    let of = |put: &Put, media_type: &str| json!({ "mediaType": media_type, "digest": put.digest, "size": put.size });
    let layers: Vec<Value> = layers.iter().map(|layer| of(layer, layer.compression.media_type())).collect();
    canonical::to_string(
        &json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": of(config, CONFIG), "layers": layers }),
    )
}

fn joined(from: &Path, target: &[u8]) -> Vec<u8> {
    if target.starts_with(b"/") { target.to_owned() } else { [from.as_os_str().as_bytes(), b"/", target].concat() }
}

/// Writes the content of a member as a blob under its digest.
fn put(stream: &mut dyn Read, size: u64, blobs: &Path, progress: &Progress) -> io::Result<Put> {
    let mut temporary = tempfile::Builder::new().prefix(".member-").tempfile_in(blobs)?;
    let (mut hasher, mut start, mut left) = (Hasher::new(), Vec::new(), size);
    let mut buffer = vec![0; 1 << 17];
    while left > 0 {
        progress.check()?;
        let wanted = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let count = stream.read(&mut buffer[..wanted])?;
        if count == 0 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "it ends in the middle of a file"));
        }
        let chunk = &buffer[..count];
        start.extend(chunk.iter().take(8_usize.saturating_sub(start.len())));
        hasher.update(chunk);
        temporary.write_all(chunk)?;
        left -= count as u64;
    }
    let (digest, size) = hasher.finish();
    temporary.persist(blobs.join(digest.hex())).map_err(|error| error.error)?;
    // A layer that is packed otherwise is named where it is read.
    Ok(Put { digest, size, compression: Compression::of_start(&start).unwrap_or(Compression::None) })
}

/// An image of an OCI directory.
struct FoundImage {
    names: Vec<String>,
    digest: Digest,
    manifest: String,
}

/// The one image of an OCI directory that a spec means, as an image that was not built here.
///
/// # Errors
/// If no image fits, or several do, or the directory is damaged.
pub(crate) fn upstream(spec: &OciSpec) -> Result<UpstreamSpec, ImportImageError> {
    let wrong = |message: String| ImportImageError { path: spec.layout.clone(), message };
    let layout = fs::canonicalize(&spec.layout).map_err(|error| wrong(format!("cannot be read: {error}")))?;
    let index = bounded::read(&layout.join("index.json"), Cap::Manifest)
        .map_err(|error| wrong(format!("is no OCI directory: index.json cannot be read: {error}")))?;
    let mut images = Vec::new();
    collect(&layout, &index, &[], &mut images, DEPTH).map_err(wrong)?;
    let mut fitting = Vec::new();
    let mut platforms = Vec::new();
    for image in images {
        let (config, layers, platform) = parts(&layout, &image).map_err(wrong)?;
        let is_meant = spec.reference.as_ref().is_none_or(|reference| is_called(&image.names, reference));
        if !is_meant {
            continue;
        }
        platforms.push(platform.to_string());
        if platform.runs_on(&spec.platform)
            && !fitting.iter().any(|(other, ..): &(FoundImage, _, _)| other.digest == image.digest)
        {
            fitting.push((image, config, layers));
        }
    }
    match (fitting.len(), &spec.reference) {
        (1, _) => {
            let (image, config, layers) = fitting.remove(0);
            Ok(UpstreamSpec {
                name: spec.name.clone(),
                tag: spec.tag.clone(),
                platform: spec.platform.clone(),
                manifest: image.manifest,
                config,
                layers,
                source: image.names.first().cloned(),
                signed_by: None,
                sboms: Vec::new(),
                index: None,
            })
        }
        (0, Some(reference)) if platforms.is_empty() => {
            Err(wrong(format!("has no image that is called '{reference}'")))
        }
        (0, _) if platforms.is_empty() => Err(wrong("has no image".to_owned())),
        (0, _) => Err(wrong(format!("is for {}, and {} was asked for", platforms.join(", "), spec.platform))),
        _ => {
            let names: Vec<&str> = fitting.iter().flat_map(|(image, ..)| &image.names).map(String::as_str).collect();
            let names = if names.is_empty() { "none of them has a name".to_owned() } else { names.join(", ") };
            Err(wrong(format!(
                "has {} images ({names}); say with `reference` which one is meant (fromImageName and fromImageTag of buildImage)",
                fitting.len()
            )))
        }
    }
}

/// Whether one of the names is the one that was asked for: `redis:7`, `localhost/redis:7`, `7`.
fn is_called(names: &[String], reference: &str) -> bool {
    names.iter().any(|name| {
        let short = name.strip_suffix(reference);
        short.is_some_and(|before| {
            before.is_empty() || before.ends_with('/') || (before.ends_with(':') && !reference.contains(':'))
        }) || name
            .rsplit_once(':')
            .is_some_and(|(name, _)| name == reference || name.ends_with(&format!("/{reference}")))
    })
}

/// The images that an index names, and those that indexes in it name.
fn collect(
    layout: &Path,
    index: &[u8],
    names: &[String],
    images: &mut Vec<FoundImage>,
    depth: usize,
) -> Result<(), String> {
    strict::check(DocumentKind::Index, index).map_err(|error| format!("its index: {error}"))?;
    let index: Value = serde_json::from_slice(index).map_err(|error| format!("its index is not valid: {error}"))?;
    for entry in index["manifests"].as_array().into_iter().flatten() {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        // What describes how an image was made is beside it in the index, for no platform.
        if text(&entry["platform"]["os"]) == "unknown" {
            continue;
        }
        let digest: Digest = text(&entry["digest"])
            .parse()
            .map_err(|_| format!("its index names '{}', which is no SHA-256", entry["digest"]))?;
        let of_entry = NAMES.iter().filter_map(|key| entry["annotations"][*key].as_str()).map(str::to_owned);
        let names: Vec<String> = of_entry.chain(names.iter().cloned()).collect();
        let bytes = blob(layout, digest)?;
        let (told, found) = (entry["size"].as_u64().unwrap_or_default(), bytes.len() as u64);
        if told != found {
            let of = place(layout, digest);
            return Err(format!("its index says that {} has {told} bytes, and it has {found}", of.display()));
        }
        if INDEXES.contains(&text(&entry["mediaType"]).as_str()) {
            if depth == 0 {
                return Err("has indexes within indexes without an end".to_owned());
            }
            collect(layout, &bytes, &names, images, depth - 1)?;
        } else {
            let manifest =
                String::from_utf8(bytes).map_err(|_| format!("manifest {} is not a text", digest.short()))?;
            match images.iter_mut().find(|image| image.digest == digest) {
                Some(image) => image.names.extend(names),
                None => images.push(FoundImage { names, digest, manifest }),
            }
        }
    }
    Ok(())
}

/// A small file of an OCI directory, if it has its digest.
fn blob(layout: &Path, digest: Digest) -> Result<Vec<u8>, String> {
    let file = place(layout, digest);
    let bytes = bounded::read(&file, Cap::Config).map_err(|error| format!("read {}: {error}", file.display()))?;
    match Digest::of(&bytes) {
        found if found == digest => Ok(bytes),
        found => Err(format!("{} is damaged: it has the digest {found}", file.display())),
    }
}

fn place(layout: &Path, digest: Digest) -> PathBuf {
    layout.join("blobs/sha256").join(OsStr::new(&digest.hex()))
}

/// Where the config and the layers of an image are, and what it runs on.
fn parts(layout: &Path, image: &FoundImage) -> Result<(PathBuf, Vec<PathBuf>, crate::oci::platform::Platform), String> {
    let manifest: Value = serde_json::from_str(&image.manifest)
        .map_err(|error| format!("manifest {} is not valid: {error}", image.digest.short()))?;
    let digest = |value: &Value| -> Result<Digest, String> {
        let text = value["digest"].as_str().unwrap_or_default();
        text.parse().map_err(|_| format!("manifest {} names '{text}', which is no SHA-256", image.digest.short()))
    };
    let config = digest(&manifest["config"])?;
    let layers = manifest["layers"].as_array().into_iter().flatten();
    let layers = layers.map(|layer| digest(layer).map(|digest| place(layout, digest))).collect::<Result<_, _>>()?;
    let document: ImageConfiguration = serde_json::from_slice(&blob(layout, config)?)
        .map_err(|error| format!("config {} is not valid: {error}", config.short()))?;
    Ok((place(layout, config), layers, platform_of(&document)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_goes_by_its_name_its_tag_and_both() {
        let names = ["registry.example/team/redis:7.2".to_owned(), "latest".to_owned()];
        for reference in ["redis", "redis:7.2", "team/redis", "registry.example/team/redis:7.2", "7.2", "latest"] {
            assert!(is_called(&names, reference), "{reference}");
        }
        for reference in ["edis", "redis:7", "2", "eam/redis", "7"] {
            assert!(!is_called(&names, reference), "{reference}");
        }
    }
}
