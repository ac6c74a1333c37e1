//! The services of the AI stack, and the images that compose files have for them: the table `services.json`, which
//! `nix/ai-stack/services.nix` reads too.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use serde::Deserialize;

use crate::oci::reference::image_name;

/// A service of the AI stack, and what is to know of the images that compose files have for it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct KnownService {
    /// Its name below `services.ai-stack`.
    #[serde(skip)]
    pub(crate) name: &'static str,
    /// Names of images, without a registry where that is Docker Hub.
    images: Vec<&'static str>,
    /// The ports that it listens on in its container; the first is `port`, and the module publishes all.
    pub(crate) ports: Vec<u16>,
    /// The port of the host for the first one, where that is another number: for Nix.
    #[serde(default)]
    host_port: Option<u16>,
    /// Where the image that is built keeps its data: for Nix.
    state: Option<&'static str>,
    /// Where such images keep their data.
    pub(crate) data: Vec<&'static str>,
    /// Where the image that is built has its models: a mount over them would hide them.
    #[serde(default)]
    pub(crate) models: Vec<&'static str>,
    /// The program that a command may begin with; its name in the image that is built comes first.
    pub(crate) programs: Vec<&'static str>,
    /// Whether the image that is built begins with a script that takes whole commands, and has a shell for it.
    pub(crate) script: bool,
    /// The secret that it takes its password from.
    pub(crate) password: Option<&'static str>,
    /// Whether its image is built from packages; the others come from upstream as they are.
    pub(crate) built: bool,
    /// What it takes as `settings`: for Nix.
    settings: Vec<&'static str>,
    /// What its data depend on, where a newer version does not read those of an older one.
    #[serde(default)]
    data_format: Option<DataFormat>,
}

/// Data that only one major version of a program reads.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct DataFormat {
    /// The packages whose major version it is.
    pub(crate) packages: Vec<&'static str>,
    /// The variable of upstream's images that has it.
    pub(crate) variable: &'static str,
    /// The file among the data that has it: for Nix.
    file: &'static str,
    /// What to do before a newer version starts.
    pub(crate) upgrade: &'static str,
}

/// The services whose data only one major version reads.
pub(crate) fn data_formats() -> impl Iterator<Item = (&'static str, &'static DataFormat)> {
    table().iter().filter_map(|known| Some((known.name, known.data_format.as_ref()?)))
}

fn table() -> &'static [KnownService] {
    static TABLE: OnceLock<Vec<KnownService>> = OnceLock::new();
    TABLE.get_or_init(|| {
        let table: BTreeMap<&'static str, KnownService> =
            serde_json::from_str(include_str!("services.json")).expect("a test reads it");
        table.into_iter().map(|(name, service)| KnownService { name, ..service }).collect()
    })
}

/// The service of the AI stack for an image, whatever its tag or digest.
#[must_use]
pub(crate) fn known(image: &str) -> Option<&'static KnownService> {
    let (name, _) = image_name(image);
    let hub = ["docker.io/", "index.docker.io/", "registry-1.docker.io/"];
    let name = hub.iter().find_map(|hub| name.strip_prefix(hub)).unwrap_or(name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    table().iter().find(|known| known.images.contains(&name))
}

/// The package of nixpkgs that an image has, where that is not the one of the AI stack.
#[must_use]
pub(crate) fn package(image: &str) -> Option<&'static str> {
    image_name(image).0.ends_with("valkey/valkey").then_some("valkey")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_are_known_by_name() {
        for (image, name) in [
            ("redis", Some("redis")),
            ("redis:8.4.0-alpine", Some("redis")),
            ("docker.io/library/postgres:17@sha256:00", Some("postgres")),
            ("docker.io/valkey/valkey", Some("redis")),
            ("ghcr.io/ggml-org/llama.cpp:server-cuda", Some("llama-cpp")),
            ("library/redis", Some("redis")),
            ("localhost/redis:1", None),
            ("registry:5000/redis", None),
            ("bitnami/redis", None),
            ("postgresml/postgresml", None),
        ] {
            assert_eq!(known(image).map(|known| known.name), name, "{image}");
        }
    }
}
