//! Bills of materials: what is in images, in the formats that scanners and auditors read.
//!
//! A document is made of an [`Inventory`] alone. There is no clock in it: its number is made of its
//! content, and it has a time only where one is given. What is not known is said to be unknown, and never guessed.
//!
//! CycloneDX 1.6 (ECMA-424) and SPDX 2.3 (ISO/IEC 5962 has 2.2.1), both as JSON. The words are those of the schemas, and the tests
//! have them checked by the formats' own validators.

mod cyclonedx;
mod spdx;

use serde_json::{Map, Value};

use crate::image::summary::ImageOrigin;
use crate::inventory::{Inventory, InventoryImage, InventoryModel, InventoryPath};
use crate::layer::LayerFile;
use crate::model::licence;
use crate::nix::package::PackageSource;
use crate::oci::canonical;
use crate::oci::digest::Digest;
use crate::oci::reference::image_name;

/// The format of a bill of materials.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BomFormat {
    /// CycloneDX 1.6
    CycloneDx,
    /// SPDX 2.3
    Spdx,
}

/// The bill of materials of all that is in an inventory. `created` is when it says that it was made, RFC 3339.
pub(crate) fn document(inventory: &Inventory, format: BomFormat, created: Option<&str>) -> Value {
    match format {
        BomFormat::CycloneDx => cyclonedx::document(inventory, created),
        BomFormat::Spdx => spdx::document(inventory, created),
    }
}

/// A UUID of version 8 (RFC 9562) that is made of a document: the same content has the same number.
fn uuid(document: &Value) -> String {
    let hex = Digest::of(&canonical::to_bytes(document)).hex();
    let variant = u8::from_str_radix(&hex[16..17], 16).unwrap_or_default() & 3 | 8;
    format!("{}-{}-8{}-{variant:x}{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

/// Puts a value under a key, if there is one.
fn put<T: Into<Value>>(object: &mut Map<String, Value>, key: &str, value: Option<T>) {
    if let Some(value) = value {
        object.insert(key.to_owned(), value.into());
    }
}

/// How an image is called in a document: its name, its tag and the digest of its manifest.
fn image_ref(image: &InventoryImage) -> String {
    format!("{}@{}", image.reference, image.digest)
}

/// The same of an image of a registry.
fn origin_ref(origin: &ImageOrigin) -> String {
    let name = origin.reference.as_deref().map_or("image", |reference| image_name(reference).0);
    format!("{name}@{}", origin.digest)
}

/// Every image of a registry that an image is, or is built upon.
fn origins(inventory: &Inventory) -> Vec<&ImageOrigin> {
    let all = inventory.images.iter().filter_map(|image| image.origin.as_ref().or(image.base.as_ref()));
    let mut origins: Vec<&ImageOrigin> = all.collect();
    origins.sort_by_key(|origin| origin_ref(origin));
    origins.dedup_by_key(|origin| origin_ref(origin));
    origins
}

/// A package URL of the type `oci` (purl-spec, *types*): `reference` is a name with a tag or without one.
fn purl_of_image(reference: &str, digest: Digest, architecture: Option<&str>) -> String {
    let (repository, tag) = image_name(reference);
    let repository = repository.split('@').next().unwrap_or_default();
    let name = repository.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let mut qualifiers = Vec::new();
    qualifiers.extend(architecture.filter(|arch| *arch != "unknown").map(|arch| format!("arch={}", quoted(arch))));
    qualifiers.push(format!("repository_url={}", quoted(repository)));
    qualifiers.extend(tag.map(|tag| format!("tag={}", quoted(tag))));
    format!("pkg:oci/{}@sha256%3A{}?{}", quoted(&name), digest.hex(), qualifiers.join("&"))
}

/// A text of a package URL, in which all but a few characters are written by their numbers.
fn quoted(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_~/".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

/// A CPE, if it is one of version 2.3: it has 13 parts.
fn cpe(path: &InventoryPath) -> Option<&str> {
    let cpe = path.package.as_ref()?.cpe.as_deref()?;
    let mut escaped = false;
    let colons = cpe.bytes().filter(|byte| {
        let is_colon = *byte == b':' && !escaped;
        escaped = *byte == b'\\' && !escaped;
        is_colon
    });
    let fits = cpe.starts_with("cpe:2.3:") && colons.count() == 12 && cpe.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then_some(cpe)
}

/// A package URL.
fn purl(path: &InventoryPath) -> Option<&str> {
    let purl = path.package.as_ref()?.purl.as_deref()?;
    (purl.starts_with("pkg:") && purl.bytes().all(|byte| byte.is_ascii_graphic())).then_some(purl)
}

/// The name of a package; by its store path, where nothing else says it.
fn name(path: &InventoryPath) -> &str {
    path.package.as_ref().and_then(|package| package.pname.as_deref()).unwrap_or(&path.pname)
}

/// The version of a package, where it has one.
fn version(path: &InventoryPath) -> Option<&str> {
    let said = path.package.as_ref().and_then(|package| package.version.as_deref());
    Some(said.unwrap_or(&path.version)).filter(|version| !version.is_empty())
}

/// The licence of a package, as an expression of SPDX.
fn licence_of(path: &InventoryPath) -> Option<String> {
    licence::of_package(path.package.as_ref()?)
}

/// Addresses that are addresses: a document with others is not valid.
fn is_address(text: &str) -> bool {
    let scheme = text.split_once("://").map_or("", |(scheme, _)| scheme);
    ["http", "https", "ftp"].contains(&scheme)
        && text.bytes().all(|byte| byte.is_ascii_graphic() && !br#"<>"{}|\^`"#.contains(&byte))
}

/// Where the source of a package may be had, with the SHA-256 of the file where that is known.
fn sources(path: &InventoryPath) -> Vec<(&str, Option<String>)> {
    let sources = path.package.iter().flat_map(|package| &package.sources);
    let with_hash = PackageSource::sha256;
    let all = sources.flat_map(|source| source.urls.iter().map(move |url| (url.as_str(), with_hash(source))));
    all.filter(|(url, _)| is_address(url)).collect()
}

/// The properties of a model, by their names.
fn model_facts(model: &InventoryModel) -> Vec<(&'static str, String)> {
    let Some(facts) = &model.facts else { return Vec::new() };
    let mut all = vec![("format", facts.format.as_str().to_owned()), ("parameters", facts.parameters.to_string())];
    let texts = [
        ("architecture", &facts.architecture),
        ("kind", &facts.kind),
        ("quantization", &facts.quantization),
        ("title", &facts.name),
        ("vendor", &facts.vendor),
    ];
    all.extend(texts.into_iter().filter_map(|(key, text)| Some((key, text.clone()?))));
    all.extend(facts.context_length.map(|tokens| ("contextLength", tokens.to_string())));
    all.extend(facts.chat_template.map(|digest| ("chatTemplate", digest.to_string())));
    all.sort();
    all
}

/// Where a model is from, by its files or the annotations of its image.
fn model_source(model: &InventoryModel) -> Option<&str> {
    let said = model.facts.as_ref().and_then(|facts| facts.source.as_deref());
    let annotated = || model.annotations.get("org.opencontainers.image.source").map(String::as_str);
    said.or_else(annotated).filter(|source| is_address(source))
}

/// The files of a model, each with its place below the directory that all of them are in.
fn model_files(model: &InventoryModel) -> Vec<(String, &LayerFile)> {
    model.files.iter().map(|file| (file.path.display().to_string(), file)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_image_of_a_registry_has_a_package_url() {
        let digest = Digest::of(b"");
        let url = |reference: &str, arch| purl_of_image(reference, digest, arch).replace(&digest.hex(), "HEX");
        assert_eq!(
            url("docker.io/Qdrant/qdrant:v1.16.2", Some("amd64")),
            "pkg:oci/qdrant@sha256%3AHEX?arch=amd64&repository_url=docker.io/Qdrant/qdrant&tag=v1.16.2"
        );
        assert_eq!(url("localhost:5000/a", None), "pkg:oci/a@sha256%3AHEX?repository_url=localhost%3A5000/a");
    }

    #[test]
    fn numbers_are_uuids_of_version_8_and_follow_the_content() {
        let one = uuid(&Value::from("a"));
        assert_eq!((one.len(), one.as_bytes()[14]), (36, b'8'));
        assert!(b"89ab".contains(&one.as_bytes()[19]), "{one}");
        assert_eq!(one, uuid(&Value::from("a")));
        assert_ne!(one, uuid(&Value::from("b")));
    }

    #[test]
    fn only_addresses_are_addresses() {
        for (text, fits) in [
            ("https://example.org/a%20b?c", true),
            ("mirror://gnu/a.tar.gz", false),
            ("https://example.org/a b", false),
            ("https://example.org/é", false),
            ("a", false),
        ] {
            assert_eq!(is_address(text), fits, "{text}");
        }
    }
}
