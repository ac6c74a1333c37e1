//! The images that the AI stack has a service for.

use super::image_name;

/// A service of the AI stack, and what is to know of the image that compose files have for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Known {
    /// Its name below `services.ai-stack`.
    pub name: &'static str,
    /// Names of images, without a registry where that is Docker Hub.
    images: &'static [&'static str],
    /// The port that it listens on in such an image.
    pub port: &'static str,
    /// Where such an image keeps its data.
    pub data: &'static [&'static str],
    /// The program that a command may begin with, which is the entrypoint of the image that is built.
    pub programs: &'static [&'static str],
    /// Whether its image is built from packages; the others come from upstream as they are.
    pub built: bool,
}

const ALL: [Known; 7] = [
    Known {
        name: "llama-cpp",
        images: &["ghcr.io/ggml-org/llama.cpp", "ghcr.io/ggerganov/llama.cpp"],
        port: "8080",
        data: &[],
        programs: &["llama-server", "/app/llama-server", "/server"],
        built: true,
    },
    Known {
        name: "mindsdb",
        images: &["mindsdb/mindsdb"],
        port: "47334",
        data: &["/root/mdb_storage", "/root/mindsdb_storage", "/mindsdb/var"],
        programs: &[],
        built: false,
    },
    Known {
        name: "ollama",
        images: &["ollama/ollama"],
        port: "11434",
        data: &["/root/.ollama"],
        programs: &["ollama", "/bin/ollama"],
        built: true,
    },
    Known {
        name: "open-webui",
        images: &["ghcr.io/open-webui/open-webui"],
        port: "8080",
        data: &["/app/backend/data"],
        programs: &[],
        built: false,
    },
    Known {
        name: "postgres",
        images: &["postgres", "pgvector/pgvector", "ankane/pgvector"],
        port: "5432",
        data: &["/var/lib/postgresql/data", "/var/lib/postgresql"],
        programs: &["postgres"],
        built: true,
    },
    Known {
        name: "qdrant",
        images: &["qdrant/qdrant"],
        port: "6333",
        data: &["/qdrant/storage"],
        programs: &["qdrant", "./qdrant", "/qdrant/qdrant"],
        built: true,
    },
    Known {
        name: "redis",
        images: &["redis", "valkey/valkey"],
        port: "6379",
        data: &["/data"],
        programs: &["redis-server", "valkey-server"],
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
