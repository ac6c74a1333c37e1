//! What comes back: statuses in words, bodies that are watched while they are read.

use std::io::Read as _;
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::http::{HeaderMap, Response};
use ureq::{Body, BodyReader, Timeout};

use super::error::RegistryError;
use super::location::is_loopback;
use super::options::{SLOWEST, Waits};
use super::sockets::within;
use crate::disk::progress::Progress;

/// What is read of an error's body.
const MAX_REASON: u64 = 64 << 10;
/// Characters of a reason that are shown.
const SHOWN: usize = 200;
/// `{"errors":[{"code":…,"message":…}]}`, of the distribution protocol, and what token servers say.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Errors {
    errors: Vec<RegistryReason>,
    details: Option<String>,
    error_description: Option<String>,
    /// Text, where the server is Hugging Face's.
    error: serde_json::Value,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RegistryReason {
    code: Option<String>,
    message: Option<String>,
}

/// The value of a header, if it is text.
pub(super) fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

/// The value of a header that is a number.
pub(super) fn header_number(headers: &HeaderMap, name: &str) -> Option<u64> {
    header_text(headers, name)?.parse().ok()
}

/// What a status that is not success means.
pub(super) fn status_error(
    host: &str,
    what: &str,
    mut response: Response<Body>,
    limit: Duration,
    progress: &Progress,
) -> RegistryError {
    let status = response.status();
    let wait = retry_after(response.headers());
    let (host, what) = (host.to_owned(), what.to_owned());
    let reason = reason(&beginning(&mut response, limit, progress)).unwrap_or_else(|| match status.as_u16() {
        404 | 410 => "the registry has none".to_owned(),
        _ => status.canonical_reason().unwrap_or("an unknown status").to_owned(),
    });
    match status.as_u16() {
        403 => RegistryError::Denied { host, what, reason },
        404 | 410 => RegistryError::NotFound { what, reason },
        429 => RegistryError::RateLimited { host, wait },
        408 | 500..=599 => RegistryError::Server { host, what, status: status.as_u16(), reason, wait },
        status => RegistryError::Refused { host, what, status, reason },
    }
}

/// What the body says, in one line that is safe to print.
fn reason(text: &[u8]) -> Option<String> {
    let said: Errors = serde_json::from_slice(text).ok()?;
    let first = said.errors.into_iter().next().unwrap_or_default();
    let error = said.error.as_str().map(str::to_owned);
    let said = [first.message, first.code, said.details, said.error_description, error];
    printable(&said.into_iter().flatten().find(|said| !said.is_empty())?)
}

/// What comes soon of a body that is not large; who lets it trickle is not waited for. Read to its end, it gives its
/// connection back.
pub(super) fn beginning(response: &mut Response<Body>, limit: Duration, progress: &Progress) -> Vec<u8> {
    let mut reader = response.body_mut().as_reader().take(MAX_REASON);
    let (mut text, mut buffer, end) = (Vec::new(), vec![0; 8 << 10], Instant::now() + limit);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        match within(left, progress, || reader.read(&mut buffer)) {
            Ok(read) if read > 0 => text.extend_from_slice(&buffer[..read]),
            _ => return text,
        }
    }
}

/// A text of a stranger: one line, not too long, nothing that a terminal obeys.
fn printable(text: &str) -> Option<String> {
    let safe: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN).collect();
    Some(safe.trim().to_owned()).filter(|text| !text.is_empty())
}

/// `Retry-After`: seconds, or a date, which counts from the `Date` of the same answer, so that no clock need be right.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = header_text(headers, "retry-after")?;
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let time = |text: &str| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok();
    let (then, now) = (time(text)?, time(header_text(headers, "date")?)?);
    Some(Duration::try_from(then - now).unwrap_or_default())
}

/// Why there is no answer.
pub(super) fn connection_error(
    host: &str,
    what: &str,
    error: ureq::Error,
    connect: Duration,
    limit: Duration,
) -> RegistryError {
    use std::io::ErrorKind;
    let (host, what) = (host.to_owned(), what.to_owned());
    let unreachable = |host, reason: &str| RegistryError::Unreachable { host, reason: reason.to_owned() };
    match error {
        ureq::Error::HostNotFound => unreachable(host, "there is no such host"),
        ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
            unreachable(host, &format!("no connection within {} s", connect.as_secs_f32()))
        }
        ureq::Error::Timeout(_) => {
            RegistryError::Timeout { host, what, reason: format!("no whole answer came in {} s", limit.as_secs_f32()) }
        }
        ureq::Error::Io(error) if error.kind() == ErrorKind::InvalidData => tls(host, &error),
        ureq::Error::Io(error) => unreachable(host, &error.to_string()),
        ureq::Error::ConnectProxyFailed(reason) => unreachable(host, &format!("the proxy says {reason}")),
        ureq::Error::ConnectionFailed => unreachable(host, "the connection failed"),
        ureq::Error::Rustls(error) => tls(host, &error),
        ureq::Error::Tls(reason) => tls(host, &reason),
        other => RegistryError::Malformed { host, what, reason: other.to_string() },
    }
}

fn tls(host: String, reason: &dyn std::fmt::Display) -> RegistryError {
    let reason = reason.to_string();
    // What rustls says of an answer that is not a record of TLS.
    if reason.contains("InvalidContentType") {
        return RegistryError::PlainHttp { here: is_loopback(&host), host };
    }
    RegistryError::Tls { host, reason }
}

/// The body of an answer: counted, and given up when nothing or next to nothing comes.
pub(super) struct Incoming<'a> {
    host: String,
    what: &'a str,
    reader: BodyReader<'static>,
    waits: Waits,
    progress: &'a Progress,
    read: u64,
    window: (Instant, u64),
}

impl<'a> Incoming<'a> {
    pub(super) fn new(host: &str, what: &'a str, body: Body, waits: Waits, progress: &'a Progress) -> Self {
        let window = (Instant::now(), 0);
        Self { host: host.to_owned(), what, reader: body.into_reader(), waits, progress, read: 0, window }
    }

    /// Reads some bytes; none at the end. Over each stall time they must not be next to nothing.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, RegistryError> {
        let stall = self.waits.stall;
        let read = self.read_within(stall, buffer)?.ok_or_else(|| self.too_slow("nothing came", stall))?;
        self.window.1 += read as u64;
        let (since, bytes) = self.window;
        if since.elapsed() >= stall {
            if read > 0 && bytes < SLOWEST.saturating_mul(stall.as_secs()) {
                return Err(self.too_slow(&format!("{bytes} bytes came"), stall));
            }
            self.window = (Instant::now(), 0);
        }
        Ok(read)
    }

    /// The same without a look at how many; `None` if nothing comes in that time.
    fn read_within(&mut self, limit: Duration, buffer: &mut [u8]) -> Result<Option<usize>, RegistryError> {
        let stopped = |source| RegistryError::Stopped { source };
        self.progress.check().map_err(stopped)?;
        let read = match within(limit, self.progress, || self.reader.read(buffer)) {
            Ok(read) => read,
            Err(error) => {
                self.progress.check().map_err(stopped)?;
                return match ureq::Error::from(error) {
                    ureq::Error::Timeout(_) => Ok(None),
                    _ => Err(RegistryError::CutOff {
                        host: self.host.clone(),
                        what: self.what.to_owned(),
                        reason: format!("{} bytes had come", self.read),
                    }),
                };
            }
        };
        self.read += read as u64;
        self.progress.count_network(read as u64);
        Ok(Some(read))
    }

    fn too_slow(&self, what_came: &str, limit: Duration) -> RegistryError {
        RegistryError::Timeout {
            host: self.host.clone(),
            what: self.what.to_owned(),
            reason: format!("{what_came} in {} s", limit.as_secs_f32()),
        }
    }

    /// All of it, which must be no more than `limit` bytes, and come in the time that a document has.
    pub(super) fn all(mut self, limit: u64, kind: &'static str) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        let (whole, end) = (self.waits.document, Instant::now() + self.waits.document);
        loop {
            let left = end.saturating_duration_since(Instant::now()).min(self.waits.stall);
            let Some(read) = self.read_within(left, &mut buffer)? else {
                let (limit, came) =
                    if left < self.waits.stall { (whole, "not all of it came") } else { (left, "nothing came") };
                return Err(self.too_slow(came, limit));
            };
            if read == 0 {
                return Ok(bytes);
            }
            bytes.extend_from_slice(&buffer[..read]);
            if bytes.len() as u64 > limit {
                return Err(RegistryError::TooLarge { what: self.what.to_owned(), kind, limit });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(headers: &[(&'static str, &str)]) -> Option<u64> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, value.parse().unwrap());
        }
        retry_after(&map).map(|wait| wait.as_secs())
    }

    #[test]
    fn waits_are_seconds_or_dates() {
        assert_eq!(wait(&[("retry-after", "7")]), Some(7));
        let date = ("date", "Wed, 21 Oct 2015 07:28:00 GMT");
        assert_eq!(wait(&[("retry-after", "Wed, 21 Oct 2015 07:29:30 GMT"), date]), Some(90));
        assert_eq!(wait(&[("retry-after", "Wed, 21 Oct 2015 07:27:00 GMT"), date]), Some(0));
        assert_eq!(wait(&[("retry-after", "Wed, 21 Oct 2015 07:29:30 GMT")]), None);
        assert_eq!(wait(&[("retry-after", "soon"), date]), None);
        assert_eq!(wait(&[]), None);
    }

    #[test]
    fn what_a_stranger_says_is_one_line() {
        assert_eq!(printable("a\u{1b}[31m\nb").as_deref(), Some("a [31m b"));
        assert_eq!(printable(&"x".repeat(1000)).map(|text| text.len()), Some(SHOWN));
        assert_eq!(printable(" \n"), None);
    }
}
