//! Images of several platforms as files, and the way to a registry: what the tests of `windlass upstream` lock.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};
use windlass::internals::oci::digest::Digest;

use crate::env::{Env, run_ok};

pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// An OCI image layout in the making.
pub(crate) struct Layout {
    folder: PathBuf,
}

impl Layout {
    pub(crate) fn new(env: &Env, name: &str) -> Self {
        env.write(format!("{name}/oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#);
        std::fs::create_dir_all(env.path(name).join("blobs/sha256")).unwrap();
        Self { folder: env.path(name) }
    }

    pub(crate) fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        std::fs::write(self.folder.join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    /// The image of one platform, with a layer of its own and one that all images have.
    pub(crate) fn image(&self, architecture: &str, variant: Option<&str>, content: &str) -> Value {
        let layers = ["shared by all", content].map(|text| {
            let tar = tar(text);
            (Digest::of(&tar), self.blob("application/vnd.oci.image.layer.v1.tar+gzip", &gzip(&tar)))
        });
        let diff_ids: Vec<Digest> = layers.iter().map(|(diff_id, _)| *diff_id).collect();
        let mut config = json!({
            "os": "linux", "architecture": architecture, "created": "2025-12-01T00:00:00Z",
            "rootfs": { "type": "layers", "diff_ids": diff_ids }, "config": { "Labels": { "é": "\u{1f9ca}" } },
        });
        let mut platform = json!({ "os": "linux", "architecture": architecture });
        if let Some(variant) = variant {
            (config["variant"], platform["variant"]) = (variant.into(), variant.into());
        }
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let layers: Vec<Value> = layers.into_iter().map(|(_, layer)| layer).collect();
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        // White space and order are the publisher's, and not to be touched.
        let mut entry = self.blob(MANIFEST, serde_json::to_string_pretty(&manifest).unwrap().as_bytes());
        entry["platform"] = platform;
        entry
    }

    /// An index of these; its bytes.
    pub(crate) fn index(&self, entries: &[Value]) -> Vec<u8> {
        let note = json!({ "note": "non-ASCII: é\u{1f9ca}" });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries, "annotations": note });
        let bytes = format!(" {}\n", serde_json::to_string_pretty(&index).unwrap()).into_bytes();
        self.name(&self.blob(INDEX, &bytes));
        bytes
    }

    /// Makes this what the layout is known as.
    pub(crate) fn name(&self, descriptor: &Value) {
        let index = json!({ "schemaVersion": 2, "manifests": [descriptor] });
        std::fs::write(self.folder.join("index.json"), index.to_string()).unwrap();
    }

    pub(crate) fn push(&self, to: &str) {
        let mut skopeo = Command::new("skopeo");
        skopeo.args(["--insecure-policy", "copy", "--quiet", "--all", "--dest-tls-verify=false"]);
        run_ok(skopeo.arg(format!("oci:{}", self.folder.display())).arg(format!("docker://{to}")));
    }
}

/// Pushes version `number` of an image: what is on amd64 stays the same from 1 to 2, what is on arm64 does not.
pub(crate) fn push_version(env: &Env, number: u32, to: &[&str]) -> Vec<u8> {
    let layout = Layout::new(env, &format!("layout-{number}"));
    let amd64 = layout.image("amd64", None, &format!("amd64 {}", number.div_ceil(2)));
    let arm64 = layout.image("arm64", Some("v8"), &format!("arm64 {number}"));
    let bytes = layout.index(&[amd64, arm64]);
    to.iter().for_each(|to| layout.push(to));
    bytes
}

fn tar(text: &str) -> Vec<u8> {
    let mut header = tar::Header::new_ustar();
    header.set_size(text.len() as u64);
    header.set_mode(0o644);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "file", text.as_bytes()).unwrap();
    archive.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(bytes).unwrap();
    gzip.finish().unwrap()
}

/// A request with curl; what came back.
pub(crate) fn curl(arguments: &[&str]) -> String {
    run_ok(Command::new("curl").args(["--silent", "--show-error", "--fail"]).args(arguments))
}

/// Pushes a manifest that skopeo would not.
pub(crate) fn put_manifest(env: &Env, host: &str, repository: &str, tag: &str, media_type: &str, manifest: &Value) {
    let file = env.write("manifest.json", manifest.to_string());
    let data = format!("@{}", file.display());
    let header = format!("Content-Type: {media_type}");
    let url = format!("http://{host}/v2/{repository}/manifests/{tag}");
    curl(&["--request", "PUT", "--header", &header, "--data-binary", &data, &url]);
}

/// Pushes a blob; its descriptor.
pub(crate) fn put_blob(env: &Env, host: &str, repository: &str, media_type: &str, bytes: &[u8]) -> Value {
    let head = curl(&["--include", "--request", "POST", &format!("http://{host}/v2/{repository}/blobs/uploads/")]);
    let location = head.lines().find_map(|line| line.strip_prefix("Location: ")).unwrap().trim().to_owned();
    let digest = Digest::of(bytes);
    let data = format!("@{}", env.write("blob", bytes).display());
    let header = "Content-Type: application/octet-stream";
    curl(&["--request", "PUT", "--header", header, "--data-binary", &data, &format!("{location}&digest={digest}")]);
    json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
}
