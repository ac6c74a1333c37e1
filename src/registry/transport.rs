//! One request to a registry: connections, certificates, logins, redirects, and what the answer means.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use ureq::http::{HeaderValue, Method, Request, Response, header};
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::transport::{ConnectProxyConnector, Connector as _, RustlsConnector};
use ureq::{Agent, Body, Proxy, ProxyProtocol, SendBody};

use super::answer::{Incoming, beginning, connection_error, header_text, status_error};
use super::credentials::{self, Secret};
use super::error::RegistryError;
use super::location::Location;
use super::options::RegistryOptions;
use super::sockets::{Connections, within};
use super::stream::{Open, send_stream};
use super::url::Url;
use crate::disk::bounded::{self, Cap};
use crate::disk::progress::Progress;

/// How many redirects are followed.
const MAX_REDIRECTS: usize = 5;
/// Where systems keep the certificates that they trust.
const SYSTEM_CERTIFICATES: [&str; 5] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// What is sent.
#[derive(Clone, Copy)]
pub(super) enum RequestBody<'a> {
    /// Nothing.
    Nothing,
    /// These bytes.
    Bytes(&'a [u8]),
    /// So many bytes, written by this.
    Stream { size: u64, open: &'a Open<'a> },
}

/// What a login is to allow.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access<'a> {
    Pull,
    Push,
    /// Push, and pull from another repository of the same registry.
    Mount(&'a str),
    /// A file of a web server: with the token that its host is given, or by `Basic`; no token server is asked.
    Web,
}

impl Access<'_> {
    /// The scopes of a token for it.
    pub(super) fn scopes(self, repository: &str) -> Vec<String> {
        let actions = match self {
            Self::Web => return Vec::new(),
            Self::Pull => "pull",
            Self::Push | Self::Mount(_) => "pull,push",
        };
        let mut scopes = vec![format!("repository:{repository}:{actions}")];
        if let Self::Mount(from) = self {
            scopes.push(format!("repository:{from}:pull"));
        }
        scopes
    }
}

/// A request.
pub(super) struct Ask<'a> {
    pub(super) at: &'a Location,
    /// The object, for messages.
    pub(super) what: &'a str,
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) access: Access<'a>,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) payload: RequestBody<'a>,
    /// Whether the answer comes only when what was uploaded is stored.
    pub(super) stores: bool,
}

/// The connections of a client, and what it was allowed with them.
pub(super) struct Transport {
    pub(super) options: RegistryOptions,
    direct: Agent,
    proxied: Option<Agent>,
    /// `Authorization` by registry and scope.
    logins: Mutex<BTreeMap<(String, String), Secret>>,
    /// Where the user's logins are from that a registry has taken, by registry.
    sources: Mutex<BTreeMap<String, BTreeSet<String>>>,
    /// Held while a login is asked for, so that many threads ask once.
    login: Mutex<()>,
    /// Hosts that could not be reached: each is tried once more, not again and again.
    down: Mutex<BTreeSet<String>>,
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Transport {
    pub(super) fn new(options: RegistryOptions) -> Result<Self, RegistryError> {
        let (roots, waits) = (trusted(options.ca_file.as_deref())?, options.waits);
        let agent = |proxy: Option<Proxy>| -> Agent {
            // Without a word about the proxy, ureq would take one from the environment.
            let config = Agent::config_builder()
                .proxy(proxy)
                .tls_config(TlsConfig::builder().root_certs(roots.clone()).build())
                .user_agent(&options.user_agent)
                .http_status_as_error(false)
                .max_redirects(0)
                .max_idle_connections(32)
                .max_idle_connections_per_host(16)
                .timeout_resolve(Some(waits.connect))
                .timeout_connect(Some(waits.connect))
                .timeout_per_write(Some(waits.stall));
            let line = ().chain(ConnectProxyConnector::default()).chain(Connections).chain(RustlsConnector::default());
            Agent::with_parts(config.build(), line, Connections)
        };
        let proxy = options.proxy.url.as_ref().map(|url| Proxy::new(url.expose()));
        let proxy = proxy.transpose().map_err(|_| RegistryError::Proxy)?;
        if proxy.as_ref().is_some_and(|proxy| !matches!(proxy.protocol(), ProxyProtocol::Http | ProxyProtocol::Https)) {
            return Err(RegistryError::Proxy);
        }
        let proxied = proxy.map(|proxy| agent(Some(proxy)));
        Ok(Self {
            direct: agent(None),
            proxied,
            options,
            logins: Mutex::default(),
            sources: Mutex::default(),
            login: Mutex::default(),
            down: Mutex::default(),
        })
    }

    /// The files and helpers with the user's logins that this registry has taken.
    pub(super) fn sources(&self, host: &str) -> BTreeSet<String> {
        locked(&self.sources).get(host).cloned().unwrap_or_default()
    }

    /// The address of something in a repository.
    ///
    /// # Errors
    /// For plain HTTP to another machine.
    pub(super) fn url(&self, at: &Location, path: &str) -> Result<Url, RegistryError> {
        if self.options.insecure && !at.is_loopback() {
            return Err(RegistryError::Insecure { host: at.host().to_owned() });
        }
        Ok(Url::of(at, self.options.insecure, path))
    }

    /// Sends a request once, with a login if one is asked for, and follows redirects. Gives back a success; every other
    /// status is an error.
    pub(super) fn send(&self, ask: &Ask<'_>, progress: &Progress) -> Result<Response<Body>, RegistryError> {
        progress.check().map_err(|source| RegistryError::Stopped { source })?;
        let key = (ask.at.wire_host().to_owned(), ask.access.scopes(ask.at.repository()).join(" "));
        let token = self.options.tokens.get(ask.url.host()).filter(|_| ask.access == Access::Web);
        let token = token.map(|token| Secret::new(format!("Bearer {}", token.expose())));
        let used = locked(&self.logins).get(&key).cloned().or(token.clone());
        let mut response = self.follow(ask, used.as_ref(), progress)?;
        if response.status() == 401 && token.is_none() {
            drop(beginning(&mut response, self.options.waits.reason, progress));
            let login = credentials::find(&self.options.auth_files, ask.at.host(), ask.at.repository())?;
            let one_at_a_time = locked(&self.login);
            let known = locked(&self.logins).get(&key).cloned().filter(|known| used.as_ref() != Some(known));
            let fresh = match known {
                Some(known) => known,
                None => {
                    let fresh = self.authorize(ask, response.headers(), login.as_ref(), progress)?;
                    locked(&self.logins).insert(key.clone(), fresh.clone());
                    fresh
                }
            };
            drop(one_at_a_time);
            response = self.follow(ask, Some(&fresh), progress)?;
            if response.status() == 401 {
                locked(&self.logins).remove(&key);
                return Err(unauthorized(ask.at, login.as_ref()));
            }
            if let Some(login) = login {
                locked(&self.sources).entry(ask.at.host().to_owned()).or_default().insert(login.source);
            }
        }
        match response.status() {
            status if status.is_success() => Ok(response),
            status if status == 401 => Err(unauthorized(ask.at, None)),
            _ => Err(self.refusal(ask.at.host(), ask.what, response, progress)),
        }
    }

    /// Sends a request, and again where it is sent to. The login goes to the registry alone.
    fn follow(
        &self,
        ask: &Ask<'_>,
        login: Option<&Secret>,
        progress: &Progress,
    ) -> Result<Response<Body>, RegistryError> {
        let home = match ask.access {
            Access::Web => ask.url.clone(),
            _ => Url::of(ask.at, self.options.insecure, ""),
        };
        let redirect = |host: &str, reason: String| {
            let (host, what) = (host.to_owned(), ask.what.to_owned());
            RegistryError::Redirect { host, what, reason }
        };
        let mut url = ask.url.clone();
        for _ in 0..=MAX_REDIRECTS {
            if !url.is_allowed(self.options.insecure) {
                return Err(redirect(ask.at.host(), format!("to {}, by plain HTTP", url.host())));
            }
            let login = login.filter(|_| url.same_host(&home));
            let response = self.send_once(ask, &url, login, progress)?;
            // What another host asks for is nothing that a login of this registry may answer.
            if response.status() == 401 && !url.same_host(&home) {
                return Err(redirect(url.host(), "to a place that wants a login of its own".to_owned()));
            }
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            if !matches!(ask.method, Method::GET | Method::HEAD) {
                return Err(redirect(url.host(), format!("an upload ({})", response.status().as_u16())));
            }
            let Some(there) = header_text(response.headers(), "location").and_then(|there| url.join(there)) else {
                return Err(redirect(url.host(), "without a usable address".to_owned()));
            };
            url = there;
        }
        Err(redirect(ask.at.host(), format!("more than {MAX_REDIRECTS} times")))
    }

    /// Sends a request to this address. Any status is a success.
    pub(super) fn send_once(
        &self,
        ask: &Ask<'_>,
        url: &Url,
        login: Option<&Secret>,
        progress: &Progress,
    ) -> Result<Response<Body>, RegistryError> {
        let malformed = |reason: String| RegistryError::Malformed {
            host: url.host().to_owned(),
            what: ask.what.to_owned(),
            reason,
        };
        let mut request = Request::builder().method(ask.method.clone()).uri(url.to_string());
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        if let Some(login) = login {
            let value = HeaderValue::from_str(login.expose());
            let mut value = value.map_err(|_| malformed("its token is not plain text".to_owned()))?;
            value.set_sensitive(true);
            request = request.header(header::AUTHORIZATION, value);
        }
        let waits = self.options.waits;
        let limit = if ask.stores { waits.stored } else { waits.answer };
        let bad = |error: ureq::http::Error| malformed(error.to_string());
        let agent = self.proxied.as_ref().filter(|_| !self.options.proxy.excepts(url.host())).unwrap_or(&self.direct);
        let configured = |request: Request<SendBody<'_>>| within(limit, progress, || agent.run(request));
        let sent = match ask.payload {
            RequestBody::Nothing => configured(request.body(SendBody::none()).map_err(bad)?),
            RequestBody::Bytes(mut bytes) => {
                let request = request.header(header::CONTENT_LENGTH, bytes.len());
                let sent = configured(request.body(SendBody::from_reader(&mut bytes)).map_err(bad)?);
                progress.count_network(if sent.is_ok() { bytes.len() as u64 } else { 0 });
                sent
            }
            RequestBody::Stream { size, open } => {
                let request = request.header(header::CONTENT_LENGTH, size);
                let request = request.body(()).map_err(bad)?;
                send_stream(ask.what, size, open, progress, |reader| {
                    configured(request.map(|()| SendBody::from_reader(reader)))
                })?
            }
        };
        sent.map_err(|error| match progress.check() {
            Err(source) => RegistryError::Stopped { source },
            Ok(()) => connection_error(url.host(), ask.what, error, waits.connect, limit),
        })
    }

    /// What a status that is not success means.
    pub(super) fn refusal(
        &self,
        host: &str,
        what: &str,
        response: Response<Body>,
        progress: &Progress,
    ) -> RegistryError {
        status_error(host, what, response, self.options.waits.reason, progress)
    }

    /// The body of an answer, watched.
    pub(super) fn incoming<'a>(&self, ask: &Ask<'a>, response: Response<Body>, progress: &'a Progress) -> Incoming<'a> {
        Incoming::new(ask.at.host(), ask.what, response.into_body(), self.options.waits, progress)
    }

    /// Does something until it works, or fails for good.
    pub(super) fn retrying<T>(
        &self,
        at: &Location,
        progress: &Progress,
        mut step: impl FnMut() -> Result<T, RegistryError>,
    ) -> Result<T, RegistryError> {
        let mut tries = Tries { transport: self, host: at.host(), progress, failed: 0, since: Instant::now() };
        loop {
            match step() {
                Ok(done) => {
                    locked(&self.down).remove(at.host());
                    return Ok(done);
                }
                Err(error) => tries.again(error)?,
            }
        }
    }

    pub(super) fn tries<'a>(&'a self, at: &'a Location, progress: &'a Progress) -> Tries<'a> {
        Tries { transport: self, host: at.host(), progress, failed: 0, since: Instant::now() }
    }
}

/// How often something was tried in vain.
pub(super) struct Tries<'a> {
    transport: &'a Transport,
    host: &'a str,
    progress: &'a Progress,
    failed: u32,
    /// When it last went on.
    since: Instant,
}

impl Tries<'_> {
    /// It went on: what fails from now on is counted from the start.
    pub(super) fn went_on(&mut self) {
        self.failed = 0;
        self.since = Instant::now();
    }

    /// Waits for the next try; gives the error back after the last one.
    pub(super) fn again(&mut self, error: RegistryError) -> Result<(), RegistryError> {
        let options = &self.transport.options;
        let wait = error.wait();
        let unreachable = matches!(error, RegistryError::Unreachable { .. });
        let down = unreachable && locked(&self.transport.down).contains(self.host);
        // A server that is slow once mostly is so again.
        let late = matches!(error, RegistryError::Timeout { .. }) && self.since.elapsed() >= options.waits.document;
        if !error.is_transient() || down || late || self.failed >= options.retries || wait > Some(options.max_wait) {
            if unreachable {
                locked(&self.transport.down).insert(self.host.to_owned());
            }
            return Err(error);
        }
        let backoff = Duration::from_millis(500).saturating_mul(1 << self.failed.min(16)).min(options.max_wait);
        self.failed += 1;
        pause(wait.unwrap_or(backoff), self.progress)
    }
}

/// Waits, unless a signal comes.
fn pause(mut left: Duration, progress: &Progress) -> Result<(), RegistryError> {
    loop {
        progress.check().map_err(|source| RegistryError::Stopped { source })?;
        if left.is_zero() {
            return Ok(());
        }
        let slice = left.min(Duration::from_millis(50));
        std::thread::sleep(slice);
        left -= slice;
    }
}

/// 401, after all that could be tried.
pub(super) fn unauthorized(at: &Location, login: Option<&credentials::Credentials>) -> RegistryError {
    RegistryError::Unauthorized {
        host: at.host().to_owned(),
        repository: at.repository().to_owned(),
        login: login.map(|login| login.source.clone()),
    }
}

/// What is behind a lock; a thread that panicked with it left nothing half done.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The certificates to trust: those of the file that was given, else the system's, else those compiled in.
fn trusted(given: Option<&Path>) -> Result<RootCerts, RegistryError> {
    if let Some(path) = given {
        let failed = |reason| RegistryError::Certificates { path: path.to_owned(), reason };
        let certificates = certificates(path).map_err(|error| failed(error.to_string()))?;
        return certificates.ok_or_else(|| failed("it has no certificate".to_owned()));
    }
    let system = SYSTEM_CERTIFICATES.iter().map(PathBuf::from);
    Ok(system.filter_map(|path| certificates(&path).ok().flatten()).next().unwrap_or(RootCerts::WebPki))
}

fn certificates(path: &Path) -> std::io::Result<Option<RootCerts>> {
    let text = bounded::read(path, Cap::List)?;
    let items = parse_pem(&text).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let found: Vec<_> = items.collect();
    Ok((!found.is_empty()).then(|| RootCerts::from(found)))
}
