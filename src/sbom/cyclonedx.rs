//! CycloneDX 1.6.
//!
//! | component | type | what it says of its own |
//! |---|---|---|
//! | image | `container` | purl, digest, its layers bottom first |
//! | image of a registry | `container` | purl, digest; what is in it is not known |
//! | store path | `application` or `library` | licence, source, patches, CPE, purl, references; layers and images |
//! | model | `machine-learning-model` | licence, files with their hashes, quantisation in its model card |
//!
//! What CycloneDX has no word for are properties `windlass:…`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::{
    cpe, image_ref, is_address, licence_of, model_facts, model_files, model_source, name, origin_ref, origins, purl,
    purl_of_image, put, sources, uuid, version,
};
use crate::image::summary::ImageOrigin;
use crate::inventory::{Inventory, InventoryImage, InventoryModel, InventoryPath, PathForm};
use crate::layer::LayerFile;
use crate::names::Name;
use crate::nix::package::PackagePatch;
use crate::oci::bill::AttachedBill;
use crate::oci::digest::Digest;
use crate::oci::reference::image_name;

/// The document.
pub(super) fn document(inventory: &Inventory, created: Option<&str>) -> Value {
    let mut components: Vec<Value> = inventory.images.iter().map(image).collect();
    components.extend(origins(inventory).into_iter().map(origin));
    components.extend(inventory.models.iter().map(|(name, model)| of_model(inventory, name, model)));
    components.extend(inventory.paths.iter().map(|(path, entry)| store_path(inventory, path, entry)));
    let tool = json!({ "type": "application", "name": "windlass", "version": env!("CARGO_PKG_VERSION") });
    let mut metadata = json!({
        "component": subject(inventory),
        "lifecycles": [{ "phase": "build" }],
        "tools": { "components": [tool] },
    });
    if let (Some(created), Some(metadata)) = (created, metadata.as_object_mut()) {
        metadata.insert("timestamp".to_owned(), created.into());
    }
    let mut document = json!({
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": metadata,
        "components": components,
        "dependencies": dependencies(inventory),
        "compositions": compositions(inventory),
    });
    document["serialNumber"] = format!("urn:uuid:{}", uuid(&document)).into();
    document
}

/// What the document is about: the image, or all of them.
fn subject(inventory: &Inventory) -> Value {
    match &inventory.images[..] {
        [only] => {
            json!({ "type": "container", "bom-ref": "subject", "name": only.reference.name(), "version": only.digest.to_string() })
        }
        all => {
            let digests: Vec<String> = all.iter().map(image_ref).collect();
            let version = Digest::of(digests.join("\n").as_bytes());
            json!({ "type": "application", "bom-ref": "subject", "name": "stack", "version": version.to_string() })
        }
    }
}

fn property(name: &str, value: impl Into<String>) -> Value {
    json!({ "name": format!("windlass:{name}"), "value": value.into() })
}

fn sha256(hex: &str) -> Value {
    json!([{ "alg": "SHA-256", "content": hex }])
}

fn licences(expression: Option<String>) -> Option<Value> {
    Some(json!([{ "expression": expression?, "acknowledgement": "declared" }]))
}

fn image(image: &InventoryImage) -> Value {
    let mut properties = vec![
        property("platform", image.platform.to_string()),
        property("configDigest", image.config_digest.to_string()),
        property("size", image.size.to_string()),
    ];
    properties.extend(image.index_digest.map(|digest| property("indexDigest", digest.to_string())));
    properties.extend(image.layers.iter().map(|digest| property("layer", digest.to_string())));
    json!({
        "type": "container",
        "bom-ref": image_ref(image),
        "name": image.reference.name(),
        "version": image_name(&image.reference).1.unwrap_or_default(),
        "hashes": sha256(&image.digest.hex()),
        "purl": purl_of_image(&image.reference, image.digest, Some(&image.platform.architecture)),
        "properties": properties,
    })
}

fn origin(origin: &ImageOrigin) -> Value {
    let reference = origin.reference.as_deref().unwrap_or("image");
    let (repository, tag) = image_name(reference);
    let mut component = Map::new();
    put(&mut component, "version", tag);
    let fixed = json!({
        "type": "container",
        "bom-ref": origin_ref(origin),
        "name": repository,
        "hashes": sha256(&origin.digest.hex()),
        "purl": purl_of_image(reference, origin.digest, None),
    });
    component.extend(fixed.as_object().cloned().unwrap_or_default());
    let mut properties = vec![property("origin", "registry"), property("metadata", "unknown")];
    properties.extend(origin.signed_by.as_deref().map(|signer| property("signedBy", signer)));
    properties.extend(origin.created.as_deref().map(|created| property("created", created)));
    let bill = |bill: &AttachedBill| {
        json!({ "type": "bom", "url": bill.place(origin.reference.as_deref()), "hashes": sha256(&bill.digest.hex()),
            "comment": bill.told() })
    };
    let bills: Vec<Value> = origin.sboms.iter().map(bill).collect();
    put(&mut component, "externalReferences", (!bills.is_empty()).then_some(bills));
    put(&mut component, "properties", Some(properties));
    component.into()
}

fn store_path(inventory: &Inventory, full: &str, path: &InventoryPath) -> Value {
    let package = path.package.as_ref();
    let mut component = Map::new();
    let is_program = package.is_some_and(|package| package.main_program.is_some());
    put(&mut component, "type", Some(if is_program { "application" } else { "library" }));
    put(&mut component, "bom-ref", Some(full));
    put(&mut component, "name", Some(name(path)));
    put(&mut component, "version", version(path));
    put(&mut component, "description", package.and_then(|package| package.description.as_deref()));
    put(&mut component, "licenses", licences(licence_of(path)));
    put(&mut component, "cpe", cpe(path));
    put(&mut component, "purl", purl(path));
    let mut external = Vec::new();
    external.extend(
        package
            .and_then(|package| package.homepage.as_deref())
            .filter(|url| is_address(url))
            .map(|url| json!({ "type": "website", "url": url })),
    );
    for (url, hash) in sources(path) {
        let mut source = Map::new();
        put(&mut source, "type", Some("source-distribution"));
        put(&mut source, "url", Some(url));
        put(&mut source, "hashes", hash.map(|hash| sha256(&hash)));
        external.push(source.into());
    }
    put(&mut component, "externalReferences", (!external.is_empty()).then_some(external));
    let patches: Vec<Value> = package.iter().flat_map(|package| &package.patches).map(patch).collect();
    put(&mut component, "pedigree", (!patches.is_empty()).then(|| json!({ "patches": patches })));
    put(&mut component, "properties", Some(properties(inventory, full, path)));
    component.into()
}

/// A patch; CycloneDX has no name for one, so that its address or its name is the text of its difference.
fn patch(patch: &PackagePatch) -> Value {
    let diff = match patch.url.as_deref().filter(|url| is_address(url)) {
        Some(url) => json!({ "url": url, "text": { "content": patch.name } }),
        None => json!({ "text": { "content": patch.name } }),
    };
    let resolves: Vec<Value> = patch.resolves().into_iter().map(|id| json!({ "type": "security", "id": id })).collect();
    let mut value = json!({ "type": "unofficial", "diff": diff });
    if !resolves.is_empty() {
        value["resolves"] = resolves.into();
    }
    value
}

fn properties(inventory: &Inventory, full: &str, path: &InventoryPath) -> Vec<Value> {
    let mut properties = vec![property("storePath", full)];
    properties.extend(path.nar_hash.map(|hash| property("narHash", hash.to_string())));
    properties.extend(path.nar_size.map(|size| property("narSize", size.to_string())));
    let known = if path.package.is_some() { "nixpkgs" } else { "unknown" };
    properties.push(property("metadata", known));
    if path.package.as_ref().is_none_or(|package| package.licences.is_empty()) {
        properties.push(property("licence", "unknown"));
    }
    for source in path.package.iter().flat_map(|package| &package.sources) {
        properties.extend(source.hash.as_deref().map(|hash| property("sourceHash", hash)));
        properties.extend(source.urls.iter().filter(|url| !is_address(url)).map(|url| property("sourceUrl", url)));
    }
    let with_files = path.layers.iter().filter(|(_, form)| **form != PathForm::Linked);
    properties.extend(with_files.map(|(layer, _)| property("layer", layer.to_string())));
    let images = path.images.iter().filter_map(|image| inventory.images.get(*image));
    properties.extend(images.map(|image| property("image", image_ref(image))));
    properties
}

/// How a model is called in the document.
fn model_ref(name: &Name) -> String {
    format!("model:{name}")
}

fn of_model(inventory: &Inventory, name: &Name, model: &InventoryModel) -> Value {
    let mut component = Map::new();
    put(&mut component, "type", Some("machine-learning-model"));
    put(&mut component, "bom-ref", Some(model_ref(name)));
    put(&mut component, "name", Some(name.to_string()));
    let facts = model.facts.as_ref();
    put(&mut component, "version", facts.and_then(|facts| facts.version.clone()));
    put(&mut component, "publisher", facts.and_then(|facts| facts.vendor.clone()));
    put(&mut component, "licenses", licences(model.licence.clone()));
    let source = model_source(model).map(|url| json!([{ "type": "distribution", "url": url }]));
    put(&mut component, "externalReferences", source);
    if let [only] = &model.files[..] {
        put(&mut component, "hashes", Some(sha256(&only.sha256.hex())));
    }
    let file = |(path, file): (String, &LayerFile)| {
        json!({
            "type": "file",
            "bom-ref": format!("{}:{path}", model_ref(name)),
            "name": path,
            "hashes": sha256(&file.sha256.hex()),
            "properties": [property("size", file.size.to_string())],
        })
    };
    let files: Vec<Value> = model_files(model).into_iter().map(file).collect();
    put(&mut component, "components", (!files.is_empty()).then_some(files));
    let facts = model_facts(model);
    let card: Vec<Value> = facts.iter().map(|(key, value)| property(key, value)).collect();
    let architecture = facts.iter().find(|(key, _)| *key == "architecture").map(|(_, value)| value.clone());
    if !card.is_empty() {
        let mut parameters = Map::new();
        put(&mut parameters, "architectureFamily", architecture);
        put(&mut component, "modelCard", Some(json!({ "modelParameters": parameters, "properties": card })));
    }
    let known = if model.digest.is_some() { "model" } else { "unknown" };
    let mut properties = vec![property("metadata", known)];
    if model.licence.is_none() {
        properties.push(property("licence", "unknown"));
    }
    properties.extend(model.layers.iter().map(|layer| property("layer", layer.to_string())));
    let images = model.images.iter().filter_map(|image| inventory.images.get(*image));
    properties.extend(images.map(|image| property("image", image_ref(image))));
    put(&mut component, "properties", Some(properties));
    component.into()
}

fn dependencies(inventory: &Inventory) -> Vec<Value> {
    let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    all.insert("subject".to_owned(), inventory.images.iter().map(image_ref).collect());
    for image in &inventory.images {
        let needs = all.entry(image_ref(image)).or_default();
        needs.extend(image.roots.iter().cloned());
        needs.extend(image.models.iter().map(model_ref));
        needs.extend(image.origin.iter().chain(&image.base).map(origin_ref));
    }
    all.extend(origins(inventory).into_iter().map(|origin| (origin_ref(origin), BTreeSet::new())));
    all.extend(inventory.models.keys().map(|name| (model_ref(name), BTreeSet::new())));
    all.extend(inventory.paths.iter().map(|(path, entry)| (path.clone(), entry.references.clone())));
    all.into_iter().map(|(of, needs)| json!({ "ref": of, "dependsOn": needs })).collect()
}

/// What is not all told: what is in images of registries, and what store paths refer to that no layer has.
fn compositions(inventory: &Inventory) -> Vec<Value> {
    let mut all = Vec::new();
    let unknown: Vec<String> = origins(inventory).into_iter().map(origin_ref).collect();
    if !unknown.is_empty() {
        all.push(json!({ "aggregate": "unknown", "assemblies": unknown }));
    }
    let of = |is_complete: bool| -> Vec<&String> {
        inventory.paths.iter().filter(|(_, path)| path.is_complete == is_complete).map(|(name, _)| name).collect()
    };
    for (aggregate, paths) in [("complete", of(true)), ("incomplete", of(false))] {
        if !paths.is_empty() {
            all.push(json!({ "aggregate": aggregate, "dependencies": paths }));
        }
    }
    all
}
