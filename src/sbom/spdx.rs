//! SPDX 2.3.
//!
//! Everything is a package: images, their layers, store paths, models, the files of models and images of registries. An image
//! CONTAINS its layers, a layer CONTAINS store paths and files of models, a store path DEPENDS_ON others, an image is a
//! DESCENDANT_OF that of a registry. No file is listed by itself: SPDX asks for a SHA-1 of each, which nothing here has.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{
    cpe, image_ref, is_address, licence_of, model_facts, model_files, model_source, name, origin_ref, origins, purl,
    purl_of_image, put, sources, uuid, version,
};
use crate::image::summary::ImageOrigin;
use crate::inventory::{Inventory, InventoryImage, InventoryLayer, InventoryModel, InventoryPath, PathForm};
use crate::layer::LayerFile;
use crate::names::Name;
use crate::nix::package::PackageSource;
use crate::oci::digest::Digest;
use crate::oci::reference::image_name;

/// What SPDX writes where nothing is known and nothing is claimed.
const NOTHING: &str = "NOASSERTION";
/// What `created` says where no time is given: as everything that windlass makes.
const CREATED: &str = "1970-01-01T00:00:01Z";

/// The document.
pub(super) fn document(inventory: &Inventory, created: Option<&str>) -> Value {
    let mut packages = Vec::new();
    let mut licences = BTreeSet::new();
    packages.extend(inventory.images.iter().enumerate().map(|(number, entry)| image(number, entry)));
    packages.extend(origins(inventory).into_iter().map(origin));
    packages.extend(inventory.layers.iter().map(|(digest, entry)| layer(*digest, entry)));
    for (full, path) in &inventory.paths {
        packages.push(store_path(full, path));
        licences.extend(licence_of(path));
    }
    for (name, model) in &inventory.models {
        packages.extend(of_model(&model_id(inventory, name), name, model));
        licences.extend(model.licence.clone());
    }
    let mut document = json!({
        "spdxVersion": "SPDX-2.3",
        "dataLicense": "CC0-1.0",
        "SPDXID": "SPDXRef-DOCUMENT",
        "name": subject(inventory),
        "creationInfo": {
            "created": created.unwrap_or(CREATED),
            "creators": [concat!("Tool: windlass-", env!("CARGO_PKG_VERSION"))],
        },
        "packages": packages,
        "relationships": relationships(inventory),
    });
    let others = other_licences(&licences);
    if !others.is_empty() {
        document["hasExtractedLicensingInfos"] = others.into();
    }
    document["documentNamespace"] = format!("urn:uuid:{}", uuid(&document)).into();
    document
}

fn subject(inventory: &Inventory) -> String {
    match &inventory.images[..] {
        [only] => image_ref(only),
        _ => "stack".to_owned(),
    }
}

/// An identifier: letters, digits, dots and dashes.
fn id(kind: &str, text: &str) -> String {
    let clean = |c: char| if c.is_ascii_alphanumeric() || c == '.' { c } else { '-' };
    format!("SPDXRef-{kind}-{}", text.chars().map(clean).collect::<String>())
}

fn image_id(number: usize, image: &InventoryImage) -> String {
    id("Image", &format!("{number}-{}", image.name))
}

fn layer_id(digest: Digest) -> String {
    id("Layer", &digest.hex())
}

fn path_id(full: &str) -> String {
    id("Path", full.rsplit('/').next().unwrap_or(full))
}

fn origin_id(origin: &ImageOrigin) -> String {
    id("Upstream", &origin_ref(origin))
}

/// A name may have a `_`, and another a `-` there: the number keeps two models apart.
fn model_id(inventory: &Inventory, name: &Name) -> String {
    let number = inventory.models.keys().position(|other| other == name).unwrap_or_default();
    id("Model", &format!("{number}-{name}"))
}

fn file_id(model: &str, number: usize) -> String {
    format!("{model}.file-{number}")
}

/// What every package has. None has its files listed, and no person has concluded what the licence is.
fn package(id: String, name: &str, purpose: &str) -> Map<String, Value> {
    let fixed = json!({
        "SPDXID": id,
        "name": name,
        "primaryPackagePurpose": purpose,
        "downloadLocation": NOTHING,
        "filesAnalyzed": false,
        "licenseConcluded": NOTHING,
        "licenseDeclared": NOTHING,
        "copyrightText": NOTHING,
    });
    fixed.as_object().cloned().unwrap_or_default()
}

fn sha256(digest: Digest) -> Value {
    json!([{ "algorithm": "SHA256", "checksumValue": digest.hex() }])
}

fn reference(category: &str, kind: &str, locator: &str) -> Value {
    json!({ "referenceCategory": category, "referenceType": kind, "referenceLocator": locator })
}

fn image(number: usize, image: &InventoryImage) -> Value {
    let mut value = package(image_id(number, image), image.reference.name(), "CONTAINER");
    put(&mut value, "versionInfo", image_name(&image.reference).1);
    put(&mut value, "checksums", Some(sha256(image.digest)));
    let purl = purl_of_image(&image.reference, image.digest, Some(&image.platform.architecture));
    put(&mut value, "externalRefs", Some(json!([reference("PACKAGE-MANAGER", "purl", &purl)])));
    put(&mut value, "comment", Some(format!("platform {}; config {}", image.platform, image.config_digest)));
    value.into()
}

fn origin(origin: &ImageOrigin) -> Value {
    let name = origin.reference.as_deref().unwrap_or("image");
    let (repository, tag) = image_name(name);
    let mut value = package(origin_id(origin), repository, "CONTAINER");
    put(&mut value, "versionInfo", tag);
    put(&mut value, "checksums", Some(sha256(origin.digest)));
    let purl = purl_of_image(name, origin.digest, None);
    let mut external = vec![reference("PACKAGE-MANAGER", "purl", &purl)];
    external.extend(origin.sboms.iter().map(|bill| {
        let mut value = reference("OTHER", "bill-of-materials", &bill.place(origin.reference.as_deref()));
        value["comment"] = bill.told().into();
        value
    }));
    put(&mut value, "externalRefs", Some(external));
    let comment = match origin.sboms.is_empty() {
        true => "what is in it is not known here",
        false => "what is in it, its publisher says in the bills of materials that are named",
    };
    put(&mut value, "comment", Some(comment.to_owned()));
    value.into()
}

fn layer(digest: Digest, layer: &InventoryLayer) -> Value {
    let mut value = package(layer_id(digest), &format!("layer {}", layer.title), "ARCHIVE");
    put(&mut value, "checksums", Some(sha256(digest)));
    put(&mut value, "comment", Some(format!("{} layer of {} bytes; {}", layer.kind.word(), layer.size, layer.why)));
    value.into()
}

fn store_path(full: &str, path: &InventoryPath) -> Value {
    let is_program = path.package.as_ref().is_some_and(|package| package.main_program.is_some());
    let purpose = if is_program { "APPLICATION" } else { "LIBRARY" };
    let mut value = package(path_id(full), name(path), purpose);
    put(&mut value, "versionInfo", version(path));
    put(&mut value, "licenseDeclared", licence_of(path));
    put(&mut value, "packageFileName", Some(full));
    let package = path.package.as_ref();
    let text = |text: Option<&String>| text.cloned();
    put(&mut value, "description", text(package.and_then(|package| package.description.as_ref())));
    put(
        &mut value,
        "homepage",
        text(package.and_then(|package| package.homepage.as_ref()).filter(|url| is_address(url))),
    );
    put(&mut value, "downloadLocation", sources(path).first().map(|(url, _)| *url));
    let mut external = Vec::new();
    external.extend(cpe(path).map(|cpe| reference("SECURITY", "cpe23Type", cpe)));
    external.extend(purl(path).map(|purl| reference("PACKAGE-MANAGER", "purl", purl)));
    put(&mut value, "externalRefs", (!external.is_empty()).then_some(external));
    put(&mut value, "sourceInfo", source_info(path));
    let mut comment = vec![match package {
        Some(_) => "metadata from nixpkgs".to_owned(),
        None => "metadata unknown: name and version are read from the store path".to_owned(),
    }];
    comment.extend(path.nar_hash.map(|hash| format!("narHash {hash}")));
    comment.extend(path.nar_size.map(|size| format!("narSize {size}")));
    put(&mut value, "comment", Some(comment.join("; ")));
    value.into()
}

/// What a package is built from, in words.
fn source_info(path: &InventoryPath) -> Option<String> {
    let package = path.package.as_ref()?;
    let source = |source: &PackageSource| {
        let urls = source.urls.join(" or ");
        let hash = source.hash.as_deref().map(|hash| format!(" ({hash})")).unwrap_or_default();
        format!("source {}{hash}", if urls.is_empty() { "without an address" } else { &urls })
    };
    let mut all: Vec<String> = package.sources.iter().map(source).collect();
    all.extend(package.patches.iter().map(|patch| format!("patch {}", patch.name)));
    (!all.is_empty()).then(|| all.join("; "))
}

/// A model and its files.
fn of_model(id: &str, name: &Name, model: &InventoryModel) -> Vec<Value> {
    let mut value = package(id.to_owned(), name, "OTHER");
    put(&mut value, "versionInfo", model.facts.as_ref().and_then(|facts| facts.version.clone()));
    put(&mut value, "licenseDeclared", model.licence.clone());
    put(&mut value, "downloadLocation", model_source(model));
    if let [only] = &model.files[..] {
        put(&mut value, "checksums", Some(sha256(only.sha256)));
    }
    let facts: Vec<String> = model_facts(model).into_iter().map(|(key, value)| format!("{key} {value}")).collect();
    let said = if facts.is_empty() { "metadata unknown".to_owned() } else { facts.join("; ") };
    put(&mut value, "comment", Some(format!("machine learning model; {said}")));
    let file = |(number, (path, file)): (usize, (String, &LayerFile))| {
        let mut value = package(file_id(id, number), &path, "FILE");
        put(&mut value, "checksums", Some(sha256(file.sha256)));
        put(&mut value, "comment", Some(format!("{} bytes", file.size)));
        Value::from(value)
    };
    std::iter::once(value.into()).chain(model_files(model).into_iter().enumerate().map(file)).collect()
}

fn relationships(inventory: &Inventory) -> Vec<Value> {
    let relation = |from: &str, kind: &str, to: &str| json!({ "spdxElementId": from, "relationshipType": kind, "relatedSpdxElement": to });
    let mut all = Vec::new();
    for (number, image) in inventory.images.iter().enumerate() {
        let of = image_id(number, image);
        all.push(relation("SPDXRef-DOCUMENT", "DESCRIBES", &of));
        let mut seen = BTreeSet::new();
        let layers = image.layers.iter().filter(|layer| seen.insert(**layer));
        all.extend(layers.map(|layer| relation(&of, "CONTAINS", &layer_id(*layer))));
        all.extend(image.roots.iter().map(|path| relation(&of, "DEPENDS_ON", &path_id(path))));
        all.extend(image.models.iter().map(|name| relation(&of, "CONTAINS", &model_id(inventory, name))));
        let origins = image.origin.iter().chain(&image.base);
        all.extend(origins.map(|origin| relation(&of, "DESCENDANT_OF", &origin_id(origin))));
    }
    for (full, path) in &inventory.paths {
        let with_files = path.layers.iter().filter(|(_, form)| **form != PathForm::Linked);
        all.extend(with_files.map(|(layer, _)| relation(&layer_id(*layer), "CONTAINS", &path_id(full))));
        all.extend(path.references.iter().map(|to| relation(&path_id(full), "DEPENDS_ON", &path_id(to))));
    }
    for (name, model) in &inventory.models {
        let of = model_id(inventory, name);
        all.extend(model.layers.iter().map(|layer| relation(&layer_id(*layer), "CONTAINS", &of)));
        all.extend((0..model.files.len()).map(|file| relation(&of, "CONTAINS", &file_id(&of, file))));
    }
    all
}

/// The licences that SPDX does not list: their texts are not here.
fn other_licences(expressions: &BTreeSet<String>) -> Vec<Value> {
    let words = expressions.iter().flat_map(|text| text.split(|c: char| " ()".contains(c)));
    let names: BTreeMap<&str, &str> =
        words.filter_map(|word| Some((word, word.strip_prefix("LicenseRef-")?))).collect();
    let other = |(id, name): (&str, &str)| json!({ "licenseId": id, "name": name, "extractedText": "The text is not here; SPDX does not list this licence." });
    names.into_iter().map(other).collect()
}
