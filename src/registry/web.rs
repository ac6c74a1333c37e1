//! Files of web servers that are no registries: downloaded, verified and resumed in the same way.

use std::path::Path;

use ureq::http::Method;

use super::answer::{header_number, header_text};
use super::blobs::{BlobRequest, Fetched};
use super::client::RegistryClient;
use super::error::RegistryError;
use super::location::Location;
use super::options::RegistryOptions;
use super::transport::{Access, Ask, RequestBody};
use super::url::{Url, escaped};
use crate::disk::progress::Progress;
use crate::oci::digest::Digest;

/// A file to download, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WebFile<'a> {
    /// Where it is.
    pub(crate) address: &'a str,
    /// Its digest; `None` if it is to be learnt.
    pub(crate) digest: Option<Digest>,
    pub(crate) size: Option<u64>,
    /// Its `ETag`, as [`Web::head`] gave it. Without one, and without a digest, nothing is resumed.
    pub(crate) version: Option<&'a str>,
}

/// What a server says of a file without sending it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct WebHead {
    pub(crate) size: Option<u64>,
    /// Its `ETag`, where that one speaks of bytes.
    pub(crate) version: Option<String>,
}

/// A small document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct WebPage {
    pub(crate) bytes: Vec<u8>,
    /// Where more of it is: `Link: <…>; rel="next"`, on the same host.
    pub(crate) next: Option<String>,
}

/// The clients of web servers: for those with TLS, and for those on this machine, which may speak plain HTTP.
#[derive(Debug)]
pub(crate) struct Web {
    secure: RegistryClient,
    plain: RegistryClient,
}

impl Web {
    /// Both, with the same options.
    ///
    /// # Errors
    /// If the options are wrong.
    pub(crate) fn new(options: &RegistryOptions) -> Result<Self, RegistryError> {
        let client = |insecure| RegistryClient::new(RegistryOptions { insecure, ..options.clone() });
        Ok(Self { secure: client(false)?, plain: client(true)? })
    }

    /// Downloads a file to `to`, by way of `<to>.part`, see [`RegistryClient::fetch_blob`].
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub(crate) fn fetch(&self, file: WebFile<'_>, to: &Path, progress: &Progress) -> Result<Fetched, RegistryError> {
        self.of(file.address).fetch_web(file, to, progress)
    }

    /// Asks for size and version of a file. Nothing is known where a server does not answer such questions.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub(crate) fn head(&self, address: &str, progress: &Progress) -> Result<WebHead, RegistryError> {
        let client = self.of(address);
        let (url, at) = client.place(address)?;
        let asked = client.transport.retrying(&at, progress, || {
            let ask = ask(&at, address, Method::HEAD, url.clone());
            let response = client.transport.send(&ask, progress)?;
            let headers = response.headers();
            // A weak one is of a meaning, not of bytes.
            let version = header_text(headers, "etag").filter(|tag| tag.starts_with('"') && tag.len() > 2);
            Ok(WebHead { size: header_number(headers, "content-length"), version: version.map(str::to_owned) })
        });
        match asked {
            // Signed addresses are often good for GET alone.
            Err(RegistryError::Refused { .. } | RegistryError::Denied { .. }) => Ok(WebHead::default()),
            asked => asked,
        }
    }

    /// Reads a document of at most `limit` bytes.
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub(crate) fn read(&self, address: &str, limit: u64, progress: &Progress) -> Result<WebPage, RegistryError> {
        let client = self.of(address);
        let (url, at) = client.place(address)?;
        client.transport.retrying(&at, progress, || {
            let ask = ask(&at, address, Method::GET, url.clone());
            let response = client.transport.send(&ask, progress)?;
            let next = response.headers().get_all("link").iter().find_map(|link| next_of(link.to_str().ok()?));
            let next = next.and_then(|next| url.join(next)).filter(|next| next.same_host(&url));
            let bytes = client.transport.incoming(&ask, response, progress).all(limit, "document")?;
            Ok(WebPage { bytes, next: next.map(|next| next.to_string()) })
        })
    }

    fn of(&self, address: &str) -> &RegistryClient {
        if Url::parse(address).is_some_and(|url| !url.is_secure()) { &self.plain } else { &self.secure }
    }
}

impl RegistryClient {
    /// Downloads a file of a web server to `to`, see [`fetch_blob`](Self::fetch_blob).
    ///
    /// # Errors
    /// See [`RegistryError`].
    pub(crate) fn fetch_web(
        &self,
        file: WebFile<'_>,
        to: &Path,
        progress: &Progress,
    ) -> Result<Fetched, RegistryError> {
        let WebFile { address, digest, size, version } = file;
        let (url, at) = self.place(address)?;
        let (what, access) = (address.to_owned(), Access::Web);
        self.fetch(&BlobRequest { at: &at, what, url, access, digest, size, version }, to, progress)
    }

    fn place(&self, address: &str) -> Result<(Url, Location), RegistryError> {
        let url = Url::parse(address).ok_or_else(|| RegistryError::Malformed {
            host: "no server".to_owned(),
            what: address.to_owned(),
            reason: "that is not an address".to_owned(),
        })?;
        let at = Location::new(url.host(), "blobs")?;
        if !url.is_allowed(self.transport.options.insecure) {
            return Err(RegistryError::Insecure { host: url.host().to_owned() });
        }
        Ok((url, at))
    }
}

fn ask<'a>(at: &'a Location, what: &'a str, method: Method, url: Url) -> Ask<'a> {
    Ask {
        at,
        what,
        method,
        url,
        access: Access::Web,
        headers: Vec::new(),
        payload: RequestBody::Nothing,
        stores: false,
    }
}

/// The target of a `Link` header's part with `rel="next"`.
fn next_of(link: &str) -> Option<&str> {
    link.split(',').find_map(|part| {
        let (target, parameters) = part.trim().strip_prefix('<')?.split_once('>')?;
        let is_next = |parameter: &str| matches!(parameter.trim(), "rel=\"next\"" | "rel=next");
        parameters.split(';').any(is_next).then_some(target)
    })
}

/// A path as a part of an address: all but its slashes escaped.
#[must_use]
pub(crate) fn escaped_path(path: &str) -> String {
    path.split('/').map(escaped).collect::<Vec<_>>().join("/")
}

/// The text that was escaped; `None` if the escapes are wrong.
#[must_use]
pub(crate) fn unescaped(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, more @ ..] = rest {
        rest = more;
        match (first, more) {
            (b'%', [high, low, after @ ..]) => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                bytes.push(u8::try_from(digit(high)? * 16 + digit(low)?).ok()?);
                rest = after;
            }
            (b'%', _) => return None,
            (byte, _) => bytes.push(*byte),
        }
    }
    String::from_utf8(bytes).ok()
}

/// Whether an address is asked: by TLS, or on this machine.
#[must_use]
pub(crate) fn is_allowed(address: &str) -> bool {
    Url::parse(address).is_some_and(|url| url.is_allowed(true))
}

/// The host of an address, with its port; `None` if it is not an address, or has a login in it.
#[must_use]
pub(crate) fn host_of(address: &str) -> Option<String> {
    Url::parse(address).map(|url| url.host().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found() {
        assert_eq!(next_of(r#"</a?cursor=b>; rel="next""#), Some("/a?cursor=b"));
        assert_eq!(next_of(r#"</a>; rel="prev", <https://h/b>; x=y; rel=next"#), Some("https://h/b"));
        for link in ["", "</a>", r#"</a>; rel="last""#, r#"/a; rel="next""#] {
            assert_eq!(next_of(link), None, "{link}");
        }
    }

    #[test]
    fn what_is_escaped_is_unescaped() {
        for text in ["a/b c.gguf", "é%/+?#", ""] {
            assert_eq!(unescaped(&escaped_path(text)).as_deref(), Some(text));
        }
        assert_eq!(escaped_path("a/b c"), "a/b%20c");
        for text in ["%", "%2", "%zz", "%ff"] {
            assert_eq!(unescaped(text), None, "{text}");
        }
    }

    #[test]
    fn hosts_have_no_logins() {
        assert_eq!(host_of("https://Hub.example:8443/x").as_deref(), Some("hub.example:8443"));
        for address in ["https://me:secret@hub.example/", "ftp://hub.example/", "hub.example"] {
            assert_eq!(host_of(address), None);
        }
        assert!(is_allowed("https://hub.example/") && is_allowed("http://127.0.0.1:80/"));
        assert!(!is_allowed("http://hub.example/") && !is_allowed("hub.example"));
    }
}
