//! The images that the AI stack has a service for.

use crate::reference::image_name;

/// A service of the AI stack, and what is to know of the image that compose files have for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its name below `services.ai-stack`.
    pub name: &'static str,
    /// Names of images, without a registry where that is Docker Hub.
    images: &'static [&'static str],
    /// The ports that it listens on in such an image; the first is `port`, and the module publishes all.
    pub ports: &'static [&'static str],
    /// Where such an image keeps its data.
    pub data: &'static [&'static str],
    /// The program that a command may begin with; its name in the image that is built comes first.
    pub programs: &'static [&'static str],
    /// Whether the image that is built begins with a script that takes whole commands, and has a shell for it.
    pub script: bool,
    /// The secret that it takes its password from.
    pub password: Option<&'static str>,
    /// Whether its image is built from packages; the others come from upstream as they are.
    pub built: bool,
}

const ALL: [Known; 7] = [
    Known {
        name: "llama-cpp",
        images: &["ghcr.io/ggml-org/llama.cpp", "ghcr.io/ggerganov/llama.cpp"],
        ports: &["8080"],
        data: &[],
        programs: &["llama-server", "server"],
        script: false,
        password: None,
        built: true,
    },
    Known {
        name: "mindsdb",
        images: &["mindsdb/mindsdb"],
        ports: &["47334", "47335"],
        data: &["/root/mdb_storage", "/root/mindsdb_storage", "/mindsdb/var"],
        programs: &[],
        script: false,
        password: None,
        built: false,
    },
    Known {
        name: "ollama",
        images: &["ollama/ollama"],
        ports: &["11434"],
        data: &["/root/.ollama"],
        programs: &["ollama"],
        script: false,
        password: None,
        built: true,
    },
    Known {
        name: "open-webui",
        images: &["ghcr.io/open-webui/open-webui"],
        ports: &["8080"],
        data: &["/app/backend/data"],
        programs: &[],
        script: false,
        password: None,
        built: false,
    },
    Known {
        name: "postgres",
        images: &["postgres", "pgvector/pgvector", "ankane/pgvector"],
        ports: &["5432"],
        data: &["/var/lib/postgresql/data", "/var/lib/postgresql"],
        programs: &["postgres"],
        script: true,
        password: Some("postgres-password"),
        built: true,
    },
    Known {
        name: "qdrant",
        images: &["qdrant/qdrant"],
        ports: &["6333", "6334"],
        data: &["/qdrant/storage"],
        programs: &["qdrant"],
        script: false,
        password: None,
        built: true,
    },
    Known {
        name: "redis",
        images: &["redis", "valkey/valkey"],
        ports: &["6379"],
        data: &["/data"],
        programs: &["redis-server", "valkey-server"],
        script: true,
        password: Some("redis-password"),
        built: true,
    },
];

/// The service of the AI stack for an image, whatever its tag or digest.
#[must_use]
pub fn known(image: &str) -> Option<Known> {
    let (name, _) = image_name(image);
    let hub = ["docker.io/", "index.docker.io/", "registry-1.docker.io/"];
    let name = hub.iter().find_map(|hub| name.strip_prefix(hub)).unwrap_or(name);
    let name = name.strip_prefix("library/").unwrap_or(name);
    ALL.into_iter().find(|known| known.images.contains(&name))
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
