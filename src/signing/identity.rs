//! Who has to have signed, where a certificate says who that is.

use std::fmt::{self, Display};

use regex::Regex;

use crate::class::{Class, Classified};

/// Why signatures with certificates cannot be looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum KeylessError {
    #[cfg_attr(not(feature = "keyless"), expect(dead_code, reason = "no trust root is read"))]
    #[error("the trust root is not a trusted_root.json of sigstore: {0}")]
    TrustRoot(String),
    #[error("the pattern of an identity, '{pattern}', is not a regular expression: {reason}")]
    Pattern {
        /// As it was given.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    #[cfg_attr(feature = "keyless", expect(dead_code, reason = "the other build says it"))]
    #[error("this windlass was built without the feature `keyless`, which verifies signatures with certificates")]
    NotBuilt,
}

impl Classified for KeylessError {
    fn class(&self) -> Class {
        match self {
            Self::TrustRoot(_) | Self::Pattern { .. } => Class::Usage,
            Self::NotBuilt => Class::Environment,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::TrustRoot(_) => Some(
                "`cosign trusted-root create` writes one, and the TUF repository of a sigstore has its own".to_owned(),
            ),
            Self::Pattern { .. } | Self::NotBuilt => None,
        }
    }
}

/// The identity that is asked for, and who must have vouched for it.
#[derive(Debug, Clone)]
pub(crate) struct AskedIdentity {
    pub(super) name: IdentityName,
    /// The address of the OIDC issuer, always in full.
    pub(super) issuer: String,
}

/// How an identity is asked for.
#[derive(Debug, Clone)]
pub(super) enum IdentityName {
    /// This one.
    Exact(String),
    /// All of it fits a regular expression.
    Pattern {
        /// As it was given.
        text: String,
        whole: Regex,
    },
}

/// The identity that a certificate has, verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CertifiedIdentity {
    /// A URI or an email address.
    pub(crate) name: String,
    /// The address of the OIDC issuer.
    pub(crate) issuer: String,
}

impl AskedIdentity {
    pub(crate) fn exact(name: &str, issuer: &str) -> Self {
        Self { name: IdentityName::Exact(name.to_owned()), issuer: issuer.to_owned() }
    }

    /// Any identity that fits a regular expression from its first to its last character.
    ///
    /// # Errors
    /// If it is not one.
    pub(crate) fn pattern(text: &str, issuer: &str) -> Result<Self, KeylessError> {
        let wrong = |error: regex::Error| KeylessError::Pattern { pattern: text.to_owned(), reason: error.to_string() };
        // By itself too: `a)|(b` is not a pattern, and would be two between the parentheses.
        Regex::new(text).map_err(wrong)?;
        let whole = Regex::new(&format!(r"\A(?:{text})\z")).map_err(wrong)?;
        Ok(Self { name: IdentityName::Pattern { text: text.to_owned(), whole }, issuer: issuer.to_owned() })
    }

    /// Whether this is the identity, or one of those, that are asked for.
    pub(crate) fn is_met_by(&self, name: &str, issuer: &str) -> bool {
        let is_name = match &self.name {
            IdentityName::Exact(exact) => exact == name,
            IdentityName::Pattern { whole, .. } => whole.is_match(name),
        };
        is_name && self.issuer == issuer
    }
}

impl Display for AskedIdentity {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            IdentityName::Exact(name) => write!(to, "the identity {name}")?,
            IdentityName::Pattern { text, .. } => write!(to, "an identity like '{text}'")?,
        }
        write!(to, " of the issuer {}", self.issuer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ISSUER: &str = "https://token.actions.githubusercontent.com";

    #[test]
    fn an_identity_is_met_as_a_whole_and_with_its_issuer() {
        let name = "https://github.com/a/b/.github/workflows/release.yml@refs/tags/v1.2";
        let exact = AskedIdentity::exact(name, ISSUER);
        assert!(exact.is_met_by(name, ISSUER));
        assert!(!exact.is_met_by(&format!("{name}.1"), ISSUER) && !exact.is_met_by(name, "https://gitlab.com"));
        let pattern = |text: &str| AskedIdentity::pattern(text, ISSUER).unwrap();
        let release = r"https://github\.com/a/b/\.github/workflows/release\.yml@refs/tags/v[0-9.]+";
        assert!(pattern(release).is_met_by(name, ISSUER));
        for other in [
            format!("https://evil.example/{name}"),
            format!("{name}\n"),
            format!("{name}-evil"),
            name.replace("github.com", "github-com"),
        ] {
            assert!(!pattern(release).is_met_by(&other, ISSUER), "{other}");
        }
        assert!(!pattern(release).is_met_by(name, "https://gitlab.com"));
        // Each side of an alternative is the whole.
        assert!(!pattern("a|b").is_met_by("ab", ISSUER) && pattern("a|b").is_met_by("b", ISSUER));
        // An anchor of its own, and a comment that would hide ours.
        assert!(pattern("^a$").is_met_by("a", ISSUER));
        for bad in ["a)|(b", "(", "(?x)a # "] {
            let found = AskedIdentity::pattern(bad, ISSUER);
            assert!(found.is_err() || !found.unwrap().is_met_by("a b", ISSUER), "{bad}");
        }
    }
}
