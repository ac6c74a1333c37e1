//! Images as others make them: compressed layers, a config with everything, manifests of Docker's and OCI's type.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use windlass::internals::oci::compression::Compression;
use windlass::internals::oci::digest::Digest;

use crate::env::{Env, run_ok};
use crate::nix::nix;
use crate::upstream_images::{curl, put_blob};

/// An image in parts: its manifest as text, and its blobs as files that are called by their digests.
pub(crate) struct Foreign {
    pub(crate) manifest: String,
    pub(crate) config: PathBuf,
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) media_type: &'static str,
}

const GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

impl Foreign {
    /// An image with a shell in usr/bin, `bin` as a link to it, a passwd of its own, and a second layer that removes a file.
    pub(crate) fn new(env: &Env) -> Self {
        Self::with(env, "two")
    }

    /// The same with this text in its etc/two.
    pub(crate) fn with(env: &Env, text: &str) -> Self {
        Self::of(env, text, "application/vnd.docker.distribution.manifest.v2+json", [(Compression::Gzip, GZIP); 2])
    }

    /// The same image with OCI's types throughout, and a layer of zstd.
    pub(crate) fn oci(env: &Env) -> Self {
        let layers = [Compression::Gzip, Compression::Zstd].map(|packed| (packed, packed.media_type()));
        Self::of(env, "two", "application/vnd.oci.image.manifest.v1+json", layers)
    }

    pub(crate) fn of(
        env: &Env,
        text: &str,
        media_type: &'static str,
        [lower, upper]: [(Compression, &'static str); 2],
    ) -> Self {
        let layer = |name: &str, script: &str, compression: Compression| {
            let tree = env.path(format!("{name}.tree"));
            std::fs::create_dir_all(&tree).unwrap();
            run_ok(Command::new("sh").arg("-ec").arg(script).current_dir(&tree));
            let tar = ["--sort=name", "--mtime=@1700000000", "--numeric-owner", "-c", "."];
            let archive = Command::new("tar").args(tar).current_dir(&tree).output().unwrap().stdout;
            let mut encoder = compression.encoder(Vec::new()).unwrap();
            std::io::Write::write_all(&mut encoder, &archive).unwrap();
            (encoder.finish().unwrap(), Digest::of(&archive))
        };
        let one = "mkdir -p usr/bin etc tmp data && chmod 1777 tmp && cp /usr/bin/busybox usr/bin/busybox && ln -s usr/bin bin && \
                   for name in sh cat ls id; do ln -s busybox usr/bin/$name; done && \
                   echo root:x:0:0:root:/root:/bin/sh >etc/passwd && echo app:x:1000:1000:app:/:/bin/sh >>etc/passwd && \
                   echo gone >etc/gone && echo stays >data/stays && chown 1000:1000 data data/stays && ln data/stays data/again";
        let two = format!("mkdir etc && touch etc/.wh.gone && echo {text} >etc/two");
        let parts = [(layer("one", one, lower.0), lower.1), (layer("two", &two, upper.0), upper.1)];
        let config = json!({
            "architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
            "created": "2024-05-06T07:08:09.123Z",
            "config": { "Env": ["PATH=/usr/bin", "LEVEL=1"], "Cmd": ["cat", "/etc/two"], "User": "1000", "Labels": { "by": "others" },
                "Healthcheck": { "Test": ["CMD", "true"] }, "WorkingDir": "/data" },
            "rootfs": { "type": "layers", "diff_ids": parts.iter().map(|((_, id), _)| id.to_string()).collect::<Vec<_>>() },
            "history": [{ "created_by": "ADD one" }, { "created_by": "ENV LEVEL=1", "empty_layer": true }, { "created_by": "ADD two" }],
        });
        let config = serde_json::to_vec(&config).unwrap();
        let descriptor = |media_type: &str, bytes: &[u8]| json!({ "mediaType": media_type, "size": bytes.len(), "digest": Digest::of(bytes).to_string() });
        // With the spaces and the order of the program that wrote it: the digest is of these bytes.
        let manifest = format!(
            "{{\n   \"schemaVersion\": 2,\n   \"mediaType\": \"{media_type}\",\n   \"config\": {},\n   \"layers\": {}\n}}",
            descriptor(
                if media_type.contains("docker") {
                    "application/vnd.docker.container.image.v1+json"
                } else {
                    "application/vnd.oci.image.config.v1+json"
                },
                &config
            ),
            Value::from_iter(parts.iter().map(|((bytes, _), media_type)| descriptor(media_type, bytes)))
        );
        let blob = |bytes: &[u8]| env.write(format!("blobs/oci-blob-sha256-{}", Digest::of(bytes).hex()), bytes);
        let layers = parts.iter().map(|((bytes, _), _)| blob(bytes)).collect();
        Self { manifest, config: blob(&config), layers, media_type }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(self.manifest.as_bytes())
    }

    /// What `windlass build` makes an image directory of.
    pub(crate) fn spec(&self, name: &str) -> Value {
        json!({ "kind": "upstream", "name": name, "manifest": self.manifest, "config": self.config, "layers": self.layers,
            "source": format!("example.com/others/{name}:1.0") })
    }

    /// A lock that has it, and its blobs in the Nix store.
    pub(crate) fn lock(&self, name: &str) -> Value {
        for blob in self.layers.iter().chain([&self.config]) {
            run_ok(nix("nix-store").args(["--add-fixed", "sha256"]).arg(blob));
        }
        let document = json!({ "digest": self.digest().to_string(), "mediaType": self.media_type, "size": self.manifest.len(), "raw": self.manifest });
        let platform = if cfg!(target_arch = "aarch64") { "linux/arm64" } else { "linux/amd64" };
        json!({ "version": 1, "blobs": {}, "images": { name: {
            "original": { "ref": format!("example.com/others/{name}:1.0"), "platforms": [platform] }, "floating": false, "source": "upstream",
            "locked": { "registry": "example.com", "repository": format!("others/{name}"), "tag": "1.0", "root": document,
                "platforms": { platform: { "manifest": document, "config": {} } } } } } })
    }

    /// Pushes it as `HOST/REPOSITORY:1.0`.
    pub(crate) fn push(&self, env: &Env, host: &str, repository: &str) {
        for blob in self.layers.iter().chain([&self.config]) {
            put_blob(env, host, repository, "", &std::fs::read(blob).unwrap());
        }
        let data = format!("@{}", env.write("manifest.json", &self.manifest).display());
        let header = format!("Content-Type: {}", self.media_type);
        let url = format!("http://{host}/v2/{repository}/manifests/1.0");
        curl(&["--request", "PUT", "--header", &header, "--data-binary", &data, &url]);
    }

    /// The image directory, built without Nix.
    pub(crate) fn build(&self, env: &Env, name: &str) -> PathBuf {
        let spec = env.write(format!("{name}.json"), self.spec(name).to_string());
        env.ok(["build", spec.to_str().unwrap()]);
        env.path(name)
    }
}

/// A JSON file.
pub(crate) fn read(path: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}
