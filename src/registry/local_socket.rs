//! A server of this host that speaks HTTP on a socket in the file system, as container daemons do. No name is looked up and no
//! network is used.

use std::fmt;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ureq::config::Config;
use ureq::http::{HeaderMap, Method, Request, Response, Uri};
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{ConnectionDetails, Connector, LazyBuffers, NextTimeout};
use ureq::{Agent, Body, Error, SendBody};

use super::answer::header_text;
use super::sockets::{Socket, within};
use crate::class::{Class, Classified};
use crate::disk::progress::Progress;

/// How long an answer may take that is not waited for by name.
pub(crate) const USUAL: Duration = Duration::from_secs(60);

/// Why a server of this host does not answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum LocalError {
    /// No server listens there.
    #[error("{0}")]
    Connect(io::Error),
    /// It went away, or does not speak HTTP.
    #[error("{0}")]
    Broken(String),
    /// It says more than is read of such an answer.
    #[error("its answer has more than {0} bytes")]
    TooMuch(u64),
    /// The job was stopped.
    #[error(transparent)]
    Stopped(io::Error),
}

impl Classified for LocalError {
    fn class(&self) -> Class {
        match self {
            Self::Connect(_) | Self::Broken(_) | Self::TooMuch(_) => Class::Environment,
            Self::Stopped(error) => error.class(),
        }
    }
}

/// What is sent.
pub(crate) enum LocalBody<'a> {
    /// Nothing.
    Nothing,
    /// What this gives, of a length that is not known yet: in chunks (RFC 9112, section 7.1). An error of it ends the request
    /// before the last chunk, so that the server knows that there is not all of it.
    Stream(&'a mut dyn Read),
}

/// A client of such a server.
#[derive(Debug)]
pub(crate) struct LocalServer {
    agent: Agent,
}

/// An answer: its status, and what comes after.
pub(crate) struct LocalAnswer<'p> {
    pub(crate) status: u16,
    headers: HeaderMap,
    body: Body,
    limit: Duration,
    progress: &'p Progress,
}

impl LocalServer {
    /// The one at this socket. It is not asked yet.
    pub(crate) fn at(socket: &Path) -> Self {
        // A connection is not used twice: whether a daemon closes it is not seen in time.
        let config = Agent::config_builder().proxy(None).http_status_as_error(false).max_redirects(0);
        let config = config.max_idle_connections(0).max_idle_connections_per_host(0).user_agent("windlass").build();
        Self { agent: Agent::with_parts(config, LocalConnector { socket: socket.to_owned() }, NoResolver) }
    }

    /// Asks once, and waits so long for each part of the answer.
    ///
    /// # Errors
    /// If there is no answer; every status is one.
    pub(crate) fn ask<'p>(
        &self,
        method: Method,
        path: &str,
        body: LocalBody<'_>,
        limit: Duration,
        progress: &'p Progress,
    ) -> Result<LocalAnswer<'p>, LocalError> {
        progress.check().map_err(LocalError::Stopped)?;
        let request = Request::builder().method(method).uri(format!("http://localhost{path}"));
        let request = request.header(
            "content-type",
            match body {
                LocalBody::Nothing => "application/json",
                LocalBody::Stream(_) => "application/x-tar",
            },
        );
        let bad = |error: ureq::http::Error| LocalError::Broken(error.to_string());
        let request = request.body(()).map_err(bad)?;
        let sent = match body {
            LocalBody::Nothing => within(limit, progress, || self.agent.run(request.map(|()| SendBody::none()))),
            LocalBody::Stream(reader) => {
                within(limit, progress, || self.agent.run(request.map(|()| SendBody::from_reader(reader))))
            }
        };
        let response: Response<Body> = sent.map_err(|error| local_error(error, progress))?;
        let (parts, body) = response.into_parts();
        Ok(LocalAnswer { status: parts.status.as_u16(), headers: parts.headers, body, limit, progress })
    }
}

impl<'p> LocalAnswer<'p> {
    /// A header, if it is text.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header_text(&self.headers, name)
    }

    /// All that it says, which is at most so many bytes.
    ///
    /// # Errors
    /// If it breaks off, or is longer.
    pub(crate) fn bytes(self, most: u64) -> Result<Vec<u8>, LocalError> {
        let (limit, progress) = (self.limit, self.progress);
        let (mut text, mut buffer) = (Vec::new(), vec![0; 64 << 10]);
        let mut reader = self.body.into_reader();
        loop {
            match within(limit, progress, || reader.read(&mut buffer)) {
                Ok(0) => return Ok(text),
                Ok(read) => text.extend_from_slice(&buffer[..read]),
                Err(error) => return Err(local_error(error.into(), progress)),
            }
            if text.len() as u64 > most {
                return Err(LocalError::TooMuch(most));
            }
        }
    }

    /// All that it says, piece by piece.
    pub(crate) fn reader(self) -> impl Read + 'p {
        LocalReader { limit: self.limit, progress: self.progress, reader: self.body.into_reader() }
    }
}

/// What a server says, watched.
struct LocalReader<'p, R> {
    limit: Duration,
    progress: &'p Progress,
    reader: R,
}

impl<R: Read> Read for LocalReader<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Self { limit, progress, reader } = self;
        within(*limit, progress, || reader.read(buffer))
    }
}

fn local_error(error: Error, progress: &Progress) -> LocalError {
    match (progress.check(), error) {
        (Err(stopped), _) => LocalError::Stopped(stopped),
        (_, Error::ConnectionFailed) => LocalError::Broken("the connection failed".to_owned()),
        (_, Error::Io(error)) if is_absent(&error) => LocalError::Connect(error),
        (_, Error::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
            LocalError::Broken("it closed the connection".to_owned())
        }
        (_, Error::Timeout(_)) => LocalError::Broken("it takes too long".to_owned()),
        (_, error) => LocalError::Broken(error.to_string()),
    }
}

/// Whether no server listens there, or not for this user.
fn is_absent(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionRefused, NotFound, PermissionDenied};
    matches!(error.kind(), NotFound | PermissionDenied | ConnectionRefused)
}

/// Makes connections to one socket, whatever the address of a request is.
#[derive(Clone)]
struct LocalConnector {
    socket: PathBuf,
}

impl fmt::Debug for LocalConnector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LocalConnector({})", self.socket.display())
    }
}

impl Connector for LocalConnector {
    type Out = Socket<UnixStream>;

    fn connect(&self, details: &ConnectionDetails<'_>, _: Option<()>) -> Result<Option<Self::Out>, Error> {
        let stream = UnixStream::connect(&self.socket)?;
        stream.set_nonblocking(true)?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Socket::new(stream, buffers)))
    }
}

/// Looks up nothing: there is one server.
#[derive(Debug)]
struct NoResolver;

impl Resolver for NoResolver {
    fn resolve(&self, _: &Uri, _: &Config, _: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let mut addresses = self.empty();
        addresses.push(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)));
        Ok(addresses)
    }
}
