//! What comes back: statuses in words, bodies that are watched while they are read.

use std::io::Read as _;
use std::time::{Duration, Instant};

use serde::Deserialize;
use ureq::http::{HeaderMap, Response};
use ureq::{Body, BodyReader, Timeout};

use super::error::RegistryError;
use crate::progress::Progress;

/// What is read of an error's body.
const MAX_REASON: u64 = 64 << 10;
/// How long it may take to come. It mostly is in the packet of the status; who lets it trickle is not waited for.
const REASON_WITHIN: Duration = Duration::from_secs(3);
/// Characters of a reason that are shown.
const SHOWN: usize = 200;
/// Less than this in a second, for as long as the stall time, is no download.
const SLOWEST: u64 = 512;

/// `{"errors":[{"code":…,"message":…}]}`, of the distribution protocol, and what token servers say.
#[derive(Deserialize, Default)]
#[serde(default)]
struct Errors {
    errors: Vec<Reason>,
    details: Option<String>,
    error_description: Option<String>,
    /// Text, where the server is Hugging Face's.
    error: serde_json::Value,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Reason {
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

/// What a status that is no success means.
pub(super) fn status_error(host: &str, what: &str, mut response: Response<Body>) -> RegistryError {
    let status = response.status();
    let wait = retry_after(response.headers());
    let (host, what) = (host.to_owned(), what.to_owned());
    let reason = reason(&mut response).unwrap_or_else(|| match status.as_u16() {
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
fn reason(response: &mut Response<Body>) -> Option<String> {
    let text = beginning(response);
    let said: Errors = serde_json::from_slice(&text).ok()?;
    let first = said.errors.into_iter().next().unwrap_or_default();
    let error = said.error.as_str().map(str::to_owned);
    let said = [first.message, first.code, said.details, said.error_description, error];
    printable(&said.into_iter().flatten().find(|said| !said.is_empty())?)
}

/// What comes soon of a body that is not large. Read to its end, it gives its connection back.
pub(super) fn beginning(response: &mut Response<Body>) -> Vec<u8> {
    let mut reader = response.body_mut().as_reader().take(MAX_REASON);
    let (mut text, mut buffer, start) = (Vec::new(), vec![0; 8 << 10], Instant::now());
    while start.elapsed() < REASON_WITHIN {
        match reader.read(&mut buffer) {
            Ok(read) if read > 0 => text.extend_from_slice(&buffer[..read]),
            _ => break,
        }
    }
    text
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
pub(super) fn connection_error(host: &str, what: &str, error: ureq::Error, connect: Duration) -> RegistryError {
    use std::io::ErrorKind;
    let (host, what) = (host.to_owned(), what.to_owned());
    let unreachable = |host, reason: &str| RegistryError::Unreachable { host, reason: reason.to_owned() };
    match error {
        ureq::Error::HostNotFound => unreachable(host, "there is no such host"),
        ureq::Error::Timeout(Timeout::Connect | Timeout::Resolve) => {
            unreachable(host, &format!("no connection within {} s", connect.as_secs_f32()))
        }
        ureq::Error::Timeout(_) => RegistryError::Timeout { host, what, reason: "no answer came".to_owned() },
        ureq::Error::Io(error) if error.kind() == ErrorKind::InvalidData => tls(host, &error),
        ureq::Error::Io(error) if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {
            RegistryError::Timeout { host, what, reason: "no answer came".to_owned() }
        }
        ureq::Error::Io(error) => unreachable(host, &error.to_string()),
        ureq::Error::ConnectProxyFailed(reason) => unreachable(host, &format!("the proxy says {reason}")),
        ureq::Error::ConnectionFailed => unreachable(host, "the connection failed"),
        ureq::Error::Rustls(error) => tls(host, &error),
        ureq::Error::Tls(reason) => tls(host, &reason),
        other => RegistryError::Malformed { host, what, reason: other.to_string() },
    }
}

fn tls(host: String, reason: &dyn std::fmt::Display) -> RegistryError {
    RegistryError::Tls { host, reason: reason.to_string() }
}

/// The body of an answer: counted, and given up when nothing or next to nothing comes.
pub(super) struct Incoming<'a> {
    host: String,
    what: &'a str,
    reader: BodyReader<'static>,
    stall: Duration,
    progress: &'a Progress,
    read: u64,
    window: (Instant, u64),
}

impl<'a> Incoming<'a> {
    pub(super) fn new(host: &str, what: &'a str, body: Body, stall: Duration, progress: &'a Progress) -> Self {
        let window = (Instant::now(), 0);
        Self { host: host.to_owned(), what, reader: body.into_reader(), stall, progress, read: 0, window }
    }

    /// Reads some bytes; none at the end.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, RegistryError> {
        self.progress.check().map_err(|source| RegistryError::Stopped { source })?;
        let read = self.reader.read(buffer).map_err(|error| match ureq::Error::from(error) {
            ureq::Error::Timeout(_) => self.too_slow("nothing came".to_owned()),
            _ => RegistryError::CutOff {
                host: self.host.clone(),
                what: self.what.to_owned(),
                reason: format!("{} bytes had come", self.read),
            },
        })?;
        self.read += read as u64;
        self.window.1 += read as u64;
        self.progress.count_network(read as u64);
        let (since, bytes) = self.window;
        if since.elapsed() >= self.stall {
            if read > 0 && bytes < SLOWEST.saturating_mul(self.stall.as_secs()) {
                return Err(self.too_slow(format!("{bytes} bytes came")));
            }
            self.window = (Instant::now(), 0);
        }
        Ok(read)
    }

    fn too_slow(&self, what_came: String) -> RegistryError {
        RegistryError::Timeout {
            host: self.host.clone(),
            what: self.what.to_owned(),
            reason: format!("{what_came} in {} s", self.stall.as_secs_f32()),
        }
    }

    /// All of it, which must be no more than `limit` bytes.
    pub(super) fn all(mut self, limit: u64, kind: &'static str) -> Result<Vec<u8>, RegistryError> {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let read = self.read(&mut buffer)?;
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
