//! Addresses: where a request may go, and who may be told the login there.

use std::fmt;

use ureq::http::Uri;

use super::location::{Location, is_loopback};

/// An absolute `http` or `https` address without a user in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Url {
    secure: bool,
    /// `HOST[:PORT]`.
    authority: String,
    /// From the first `/` on.
    rest: String,
}

impl Url {
    /// `https://REGISTRY/v2/REPOSITORY/<path>`.
    pub(super) fn of(at: &Location, insecure: bool, path: &str) -> Self {
        let rest = format!("/v2/{}/{path}", at.repository());
        Self { secure: !insecure, authority: at.wire_host().to_owned(), rest }
    }

    /// Reads an absolute address; `None` if it is not one, or has a user in it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let uri: Uri = text.parse().ok()?;
        let secure = match uri.scheme_str()? {
            "https" => true,
            "http" => false,
            _ => return None,
        };
        let authority = uri.authority()?.as_str().to_ascii_lowercase();
        let rest = uri.path_and_query().map_or("/", |rest| rest.as_str()).to_owned();
        (!authority.contains('@')).then_some(Self { secure, authority, rest })
    }

    /// Where a `Location` header of an answer from here leads. A registry behind a proxy often does not know that it is
    /// reached by HTTPS: on the same host, the scheme stays what it is.
    pub(super) fn join(&self, location: &str) -> Option<Self> {
        if location.starts_with('/') && !location.starts_with("//") {
            return Self::parse(&format!("{}://{}{location}", self.scheme(), self.authority));
        }
        let there = Self::parse(location)?;
        Some(if there.authority == self.authority { Self { secure: self.secure, ..there } } else { there })
    }

    /// The same with one more parameter, whose value needs no escapes.
    pub(super) fn with(mut self, name: &str, value: &str) -> Self {
        self.rest.push(if self.rest.contains('?') { '&' } else { '?' });
        self.rest.push_str(name);
        self.rest.push('=');
        self.rest.push_str(&escaped(value));
        self
    }

    const fn scheme(&self) -> &'static str {
        if self.secure { "https" } else { "http" }
    }

    /// Whether it is reached by TLS.
    pub(super) const fn is_secure(&self) -> bool {
        self.secure
    }

    /// `HOST[:PORT]`.
    pub(super) fn host(&self) -> &str {
        &self.authority
    }

    /// Whether both are on one host, by one protocol: what may be told the one may be told the other.
    pub(super) fn same_host(&self, other: &Self) -> bool {
        self.secure == other.secure && self.authority == other.authority
    }

    /// Whether requests may go there: safely, or in the clear within this machine where that was asked for.
    pub(super) fn is_allowed(&self, insecure: bool) -> bool {
        self.secure || (insecure && is_loopback(&self.authority))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}{}", self.scheme(), self.authority, self.rest)
    }
}

/// A value for a query or a form.
pub(super) fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let hex =
        |byte: u8| [b'%', b"0123456789ABCDEF"[usize::from(byte >> 4)], b"0123456789ABCDEF"[usize::from(byte & 15)]];
    let bytes = text.bytes().flat_map(|byte| if plain(byte) { vec![byte] } else { hex(byte).to_vec() });
    bytes.map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> Url {
        Url::parse(text).unwrap()
    }

    #[test]
    fn redirects_are_followed_from_where_they_are() {
        let here = url("https://r.example/v2/a/blobs/uploads/");
        for (location, there) in [
            ("/v2/x?a=b", Some("https://r.example/v2/x?a=b")),
            ("http://r.example/v2/x", Some("https://r.example/v2/x")),
            ("http://cdn.example/x", Some("http://cdn.example/x")),
            ("https://CDN.example:8443/x", Some("https://cdn.example:8443/x")),
            ("//cdn.example/x", None),
            ("x", None),
            ("https://user:pass@r.example/x", None),
            ("file:///etc/passwd", None),
        ] {
            assert_eq!(here.join(location).map(|url| url.to_string()).as_deref(), there, "{location}");
        }
        assert_eq!(
            here.clone().with("digest", "sha256:0").with("a", "b c").to_string(),
            format!("{here}?digest=sha256%3A0&a=b%20c")
        );
    }

    #[test]
    fn logins_stay_on_their_host_and_the_clear_on_this_machine() {
        let here = url("http://127.0.0.1:5000/v2/");
        assert!(here.same_host(&url("http://127.0.0.1:5000/other")));
        for other in ["http://127.0.0.1:5001/", "https://127.0.0.1:5000/", "http://localhost:5000/"] {
            assert!(!here.same_host(&url(other)), "{other}");
        }
        assert!(here.is_allowed(true) && !here.is_allowed(false));
        assert!(!url("http://r.example/").is_allowed(true) && url("https://r.example/").is_allowed(false));
    }
}
