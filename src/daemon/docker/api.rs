//! Docker's API, as far as it is needed: requests on its socket, and what of the answers is read.
//!
//! Docker Engine API 1.41 (20.10) to 1.51 (28.5), seen with 20.10.24 and 28.5.2. A client says the version that it speaks as a
//! prefix of the path; a daemon refuses one that is newer than its own.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::http::Method;

use crate::daemon::DaemonError;
use crate::disk::progress::Progress;
use crate::engine::kind::EngineKind;
use crate::oci::digest::Digest;
use crate::registry::local_socket::{LocalAnswer, LocalBody, LocalError, LocalServer, USUAL};

/// The versions of the API that are spoken, of which the first number is always 1: what 20.10 has, and the newest that was
/// tried.
const VERSIONS: std::ops::RangeInclusive<u32> = 41..=51;
/// From this version on, an image is told with what of it is there, where the containerd store has it.
const SAYS_MANIFESTS: u32 = 48;
/// What is read of an answer that is a document. A thousand images take half a megabyte.
const MOST: u64 = 64 << 20;
/// What is read of a line of the answer to a load.
const LINE: u64 = 1 << 20;
/// Unpacking is done before there is an answer, and takes as long as it takes.
const LONG: Duration = Duration::from_secs(24 * 60 * 60);

/// Docker's side of the socket.
#[derive(Debug)]
pub(super) struct DockerApi {
    server: LocalServer,
    /// For messages.
    pub(super) socket: PathBuf,
    version: u32,
}

/// `GET /info`, in part.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct DockerInfo {
    pub(super) driver: String,
    #[serde(default)]
    pub(super) driver_status: Option<Vec<(String, String)>>,
    pub(super) docker_root_dir: PathBuf,
    #[serde(default)]
    pub(super) security_options: Option<Vec<String>>,
}

/// `GET /images/json`, in part.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedImage {
    pub(super) id: Digest,
    #[serde(default)]
    pub(super) repo_tags: Option<Vec<String>>,
    #[serde(default)]
    pub(super) size: i64,
}

/// `GET /images/{name}/json`, in part.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct InspectedImage {
    #[serde(default, rename = "RootFS")]
    root_fs: InspectedRoot,
    /// With the containerd store, from API 1.48 on.
    #[serde(default)]
    manifests: Option<Vec<InspectedManifest>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedRoot {
    #[serde(default)]
    layers: Option<Vec<Digest>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct InspectedManifest {
    #[serde(rename = "ID")]
    id: Digest,
    /// Whether all that the manifest names is in the store.
    #[serde(default)]
    available: bool,
}

impl InspectedImage {
    /// The diff IDs of its layers; none where the containerd store has not all of it.
    pub(super) fn layers(&self) -> &[Digest] {
        self.root_fs.layers.as_deref().unwrap_or_default()
    }

    /// Whether Docker says that something of it is missing.
    pub(super) fn is_partial(&self, id: Digest) -> bool {
        let mut manifests = self.manifests.iter().flatten();
        manifests.any(|manifest| manifest.id == id && !manifest.available)
    }
}

/// `GET /containers/json`, in part.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct ListedContainer {
    #[serde(default)]
    pub(super) names: Vec<String>,
    /// The name of an image that is gone.
    #[serde(rename = "ImageID")]
    pub(super) image_id: String,
    #[serde(default)]
    pub(super) state: String,
}

/// What is wrong, as Docker says it.
#[derive(Debug, Deserialize)]
struct DockerMessage {
    message: String,
}

/// A line of the answer to a load.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct LoadLine {
    stream: Option<String>,
    error: Option<String>,
}

impl DockerApi {
    /// The Docker at this socket, in the newest version of the API that both sides speak.
    pub(super) fn connect(socket: &Path, progress: &Progress) -> Result<Self, DaemonError> {
        let server = LocalServer::at(socket);
        let mut api = Self { server, socket: socket.to_owned(), version: *VERSIONS.start() };
        let action = "say its version";
        let answer = api.server.ask(Method::GET, "/_ping", LocalBody::Nothing, USUAL, progress);
        let answer = answer.map_err(|error| api.failed(action, error))?;
        let said = answer.header("api-version").unwrap_or_default().to_owned();
        let minor = said.strip_prefix("1.").and_then(|minor| minor.parse::<u32>().ok());
        let Some(minor) = minor.filter(|_| answer.status == 200) else {
            let why = format!("status {}, API version '{said}'", answer.status);
            return Err(api.puzzled(action, why));
        };
        if minor < *VERSIONS.start() {
            let why = format!("it speaks API 1.{minor}; windlass needs 1.{} (Docker 20.10)", VERSIONS.start());
            return Err(api.puzzled(action, why));
        }
        api.version = minor.min(*VERSIONS.end());
        Ok(api)
    }

    fn failed(&self, action: &str, error: LocalError) -> DaemonError {
        let socket = self.socket.display();
        match error {
            LocalError::Stopped(error) => DaemonError::Stopped(error),
            LocalError::TooMuch(_) => self.puzzled(action, error.to_string()),
            LocalError::Connect(_) => DaemonError::Unreachable {
                engine: EngineKind::Docker,
                endpoint: self.socket.display().to_string(),
                why: error.to_string(),
                hint: format!(
                    "start Docker (`systemctl start docker`), set DOCKER_HOST=unix:///… to its socket, or be in the group \
                     that may write to {socket}"
                ),
            },
            LocalError::Broken(why) => DaemonError::Unreachable {
                engine: EngineKind::Docker,
                endpoint: self.socket.display().to_string(),
                why: format!("asked to {action}: {why}"),
                hint: "`journalctl -u docker` says what became of it".to_owned(),
            },
        }
    }

    /// An answer that is not understood.
    pub(super) fn puzzled(&self, action: &str, why: String) -> DaemonError {
        DaemonError::Answer { engine: EngineKind::Docker, action: action.to_owned(), why }
    }

    /// Asks, in our version of the API; `None` for 404. Other statuses that are no success are errors.
    fn ask<'p>(
        &self,
        action: &str,
        (method, path): (Method, &str),
        (body, limit): (LocalBody<'_>, Duration),
        progress: &'p Progress,
    ) -> Result<Option<LocalAnswer<'p>>, DaemonError> {
        let path = format!("/v1.{}{path}", self.version);
        let answer = self.server.ask(method, &path, body, limit, progress);
        let answer = answer.map_err(|error| self.failed(action, error))?;
        match answer.status {
            200..=299 => Ok(Some(answer)),
            404 => Ok(None),
            status => {
                let text = answer.bytes(LINE).map_err(|error| self.failed(action, error))?;
                let said = serde_json::from_slice::<DockerMessage>(&text).map(|said| said.message);
                let said = said.unwrap_or_else(|_| String::from_utf8_lossy(&text).into_owned());
                let said = if said.trim().is_empty() { format!("status {status}") } else { printable(&said) };
                Err(DaemonError::Refused { engine: EngineKind::Docker, action: action.to_owned(), said })
            }
        }
    }

    /// A document; `None` for 404.
    fn get<T: DeserializeOwned>(
        &self,
        action: &str,
        path: &str,
        progress: &Progress,
    ) -> Result<Option<T>, DaemonError> {
        let request = ((Method::GET, path), (LocalBody::Nothing, USUAL));
        let Some(answer) = self.ask(action, request.0, request.1, progress)? else { return Ok(None) };
        let text = answer.bytes(MOST).map_err(|error| self.failed(action, error))?;
        serde_json::from_slice(&text).map(Some).map_err(|error| self.puzzled(action, error.to_string()))
    }

    fn must<T>(&self, action: &str, found: Option<T>) -> Result<T, DaemonError> {
        found.ok_or_else(|| self.puzzled(action, "status 404".to_owned()))
    }

    pub(super) fn info(&self, progress: &Progress) -> Result<DockerInfo, DaemonError> {
        let action = "say where its data is";
        self.must(action, self.get(action, "/info", progress)?)
    }

    pub(super) fn images(&self, progress: &Progress) -> Result<Vec<ListedImage>, DaemonError> {
        let action = "list its images";
        self.must(action, self.get(action, "/images/json", progress)?)
    }

    pub(super) fn image(&self, id: Digest, progress: &Progress) -> Result<Option<InspectedImage>, DaemonError> {
        let manifests = if self.version >= SAYS_MANIFESTS { "?manifests=1" } else { "" };
        self.get("describe an image", &format!("/images/{id}/json{manifests}"), progress)
    }

    pub(super) fn containers(&self, progress: &Progress) -> Result<Vec<ListedContainer>, DaemonError> {
        let action = "list its containers";
        self.must(action, self.get(action, "/containers/json?all=1", progress)?)
    }

    /// Sends an archive; what Docker says of it where it did not take all of it.
    pub(super) fn load(&self, archive: &mut dyn Read, progress: &Progress) -> Result<Option<String>, DaemonError> {
        let action = "load an image";
        let request = ((Method::POST, "/images/load?quiet=1"), (LocalBody::Stream(archive), LONG));
        let answer = self.must(action, self.ask(action, request.0, request.1, progress)?)?;
        let mut lines = BufReader::new(answer.reader());
        let mut wrong = None;
        loop {
            let mut line = Vec::new();
            let read = lines.by_ref().take(LINE).read_until(b'\n', &mut line);
            let read = read.map_err(|error| match progress.check() {
                Err(stopped) => DaemonError::Stopped(stopped),
                Ok(()) => self.failed(action, LocalError::Broken(error.to_string())),
            })?;
            if read == 0 {
                return Ok(wrong);
            }
            let said: LoadLine =
                serde_json::from_slice(&line).map_err(|error| self.puzzled(action, error.to_string()))?;
            // With the containerd store, what cannot be unpacked is a sentence, and the status is a success.
            let failed = said.stream.filter(|said| said.starts_with("Error"));
            if let Some(said) = said.error.or(failed) {
                wrong.get_or_insert(printable(&said));
            }
        }
    }

    pub(super) fn tag(&self, id: Digest, name: &str, progress: &Progress) -> Result<(), DaemonError> {
        let (repository, tag) = name.rsplit_once(':').unwrap_or((name, "latest"));
        let (action, path) = (format!("name an image {name}"), format!("/images/{id}/tag?repo={repository}&tag={tag}"));
        let done = self.ask(&action, (Method::POST, &path), (LocalBody::Nothing, USUAL), progress)?;
        match done {
            Some(_) => Ok(()),
            None => Err(DaemonError::Refused {
                engine: EngineKind::Docker,
                action,
                said: format!("it has no image {}", id.short()),
            }),
        }
    }

    /// Takes a name away, and the image with its last one. A name that is not there is no failure.
    pub(super) fn untag(&self, name: &str, progress: &Progress) -> Result<(), DaemonError> {
        let (action, path) = (format!("remove the name {name}"), format!("/images/{name}"));
        self.ask(&action, (Method::DELETE, &path), (LocalBody::Nothing, LONG), progress).map(drop)
    }

    /// An image as Docker gives it out.
    pub(super) fn save<'p>(&self, name: &str, progress: &'p Progress) -> Result<impl Read + use<'p>, DaemonError> {
        let action = format!("give out {name}");
        let path = format!("/images/get?names={name}");
        let answer = self.ask(&action, (Method::GET, &path), (LocalBody::Nothing, LONG), progress)?;
        self.must(&action, answer).map(LocalAnswer::reader)
    }
}

/// A text of the daemon in one line that a terminal does not obey.
fn printable(text: &str) -> String {
    let safe: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(500).collect();
    safe.trim().to_owned()
}
