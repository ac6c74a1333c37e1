//! Manifests, indexes and configs of registries: what is taken has sizes that can be summed and types that can be
//! unpacked; what our own check of images lets through, the `oci-spec` crate can read.

use windlass::internals::oci::compression::Compression;
use windlass::internals::oci::digest::Digest;
use windlass::internals::oci::reference;
use windlass::internals::oci::strict::{self, is_time};
use windlass::internals::signing::key::SignatureKey;
use windlass::internals::upstream::document::{self, TypedDocument, UpstreamDocument};

use super::sections;

/// See the module.
pub fn check(data: &[u8]) -> bool {
    let mut taken = false;
    let files = sections(data);
    let part = |name: &str| files.iter().find(|(found, _)| *found == name).map(|(_, content)| *content);
    let documents = [part("manifest"), part("config"), part("index"), Some(data)];
    for bytes in documents.into_iter().flatten() {
        for told in [None, Some(document::OCI_MANIFEST), Some("application/json; charset=utf-8")] {
            taken |= read(bytes, told);
        }
        for kind in [strict::DocumentKind::Config, strict::DocumentKind::Manifest, strict::DocumentKind::Index] {
            taken |= strict::check(kind, bytes).is_ok();
        }
    }
    if let (Some(manifest), Some(config)) = (part("manifest"), part("config")) {
        taken |= strict::check_image(manifest, config).is_ok();
    }
    if let Some(text) = part("key").and_then(|bytes| std::str::from_utf8(bytes).ok()) {
        taken |= SignatureKey::parse(text).is_ok();
    }
    if let Some(text) = part("time").and_then(|bytes| std::str::from_utf8(bytes).ok()) {
        let text = text.trim_end_matches('\n');
        if is_time(text) {
            assert!(text.is_ascii() && text.len() >= 20, "{text}");
        }
    }
    taken
}

fn read(bytes: &[u8], told: Option<&str>) -> bool {
    let Ok(TypedDocument { media_type, document }) = document::read(bytes, told) else { return false };
    match document {
        UpstreamDocument::Manifest(manifest) => {
            let blobs: Vec<_> = manifest.blobs().collect();
            assert_eq!(manifest.total_size(), blobs.iter().map(|blob| blob.size).sum::<u64>());
            assert!(manifest.layers.iter().all(|layer| Compression::of_media_type(&layer.media_type).is_some()));
            assert!(!document::is_index(&media_type));
        }
        UpstreamDocument::Index(entries) => {
            assert!(document::is_index(&media_type));
            for platform in entries.iter().filter_map(|entry| entry.platform.as_ref()) {
                assert_eq!(platform.clone().canonical(), *platform);
            }
        }
    }
    assert!(reference::is_name(&format!("localhost/a@{}", Digest::of(bytes))));
    true
}
