//! Operating system, architecture and variant, in Go's words: `linux/arm64/v8` (image-spec, *image-index.md*).

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::class::{Class, Classified};

/// What a container of an image runs on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(into = "String", try_from = "String")]
pub struct Platform {
    /// `linux`.
    pub(crate) os: String,
    /// `amd64`, `arm64`, …
    pub(crate) architecture: String,
    /// `v8`, `v7`, …
    pub(crate) variant: Option<String>,
}

/// Why a text is not a [`Platform`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a platform: expected os/architecture[/variant] like linux/amd64 or linux/arm64/v8")]
pub struct ParsePlatformError(String);

impl Classified for ParsePlatformError {
    fn class(&self) -> Class {
        Class::Failed
    }
}

impl Platform {
    /// What a model image says: it runs nowhere, and is the same for every architecture.
    #[must_use]
    pub(crate) fn of_data() -> Self {
        Self { os: "linux".to_owned(), architecture: "unknown".to_owned(), variant: None }
    }

    /// The same under the one name that it goes by here, of those that registries use: `linux/arm64` for `linux/arm64/v8`
    /// and `linux/aarch64`, `linux/arm/v7` for `linux/arm`.
    #[must_use]
    pub fn canonical(self) -> Self {
        let Self { os, architecture, variant } = self;
        let architecture = match architecture.as_str() {
            "aarch64" => "arm64".to_owned(),
            "x86_64" => "amd64".to_owned(),
            _ => architecture,
        };
        let variant = match (architecture.as_str(), variant.as_deref()) {
            ("arm64", Some("v8" | "8")) | ("amd64", Some("v1")) => None,
            ("arm", None) => Some("v7".to_owned()),
            _ => variant,
        };
        Self { os, architecture, variant }
    }

    /// Whether this is the platform that was asked for: one without a variant asks for all variants.
    #[must_use]
    pub(crate) fn is_one_of(&self, asked: &Self) -> bool {
        let (own, asked) = (self.clone().canonical(), asked.clone().canonical());
        let variant = asked.variant.is_none() || own.variant == asked.variant;
        own.os == asked.os && own.architecture == asked.architecture && variant
    }

    /// Whether a container of this platform runs on `host`; what is only data runs anywhere.
    #[must_use]
    pub(crate) fn runs_on(&self, host: &Self) -> bool {
        let variant = self.variant.is_none() || host.variant.is_none() || self.variant == host.variant;
        *self == Self::of_data() || (self.os == host.os && self.architecture == host.architecture && variant)
    }
}

/// The platform that this windlass was built for.
impl Default for Platform {
    fn default() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            other => other,
        };
        Self { os: std::env::consts::OS.to_owned(), architecture: architecture.to_owned(), variant: None }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl FromStr for Platform {
    type Err = ParsePlatformError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let fits = |part: &&str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let parts: Vec<_> = text.split('/').collect();
        match parts[..] {
            [os, architecture, ref rest @ ..] if rest.len() < 2 && parts.iter().all(fits) => Ok(Self {
                os: os.to_owned(),
                architecture: architecture.to_owned(),
                variant: rest.first().map(|&variant| variant.to_owned()),
            }),
            _ => Err(ParsePlatformError(text.to_owned())),
        }
    }
}

impl From<Platform> for String {
    fn from(platform: Platform) -> Self {
        platform.to_string()
    }
}

impl TryFrom<String> for Platform {
    type Error = ParsePlatformError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_prints() {
        for text in ["linux/amd64", "linux/arm64/v8"] {
            assert_eq!(text.parse::<Platform>().unwrap().to_string(), text);
        }
        for text in ["", "linux", "linux/", "Linux/amd64", "linux/arm64/v8/x", "x86_64-linux"] {
            assert!(text.parse::<Platform>().is_err(), "{text}");
        }
    }

    #[test]
    fn each_platform_has_one_name() {
        for (text, name) in [
            ("linux/arm64/v8", "linux/arm64"),
            ("linux/arm64/v9", "linux/arm64/v9"),
            ("linux/amd64/v1", "linux/amd64"),
            ("linux/amd64/v3", "linux/amd64/v3"),
            ("linux/arm", "linux/arm/v7"),
            ("linux/arm/v6", "linux/arm/v6"),
        ] {
            assert_eq!(text.parse::<Platform>().unwrap().canonical().to_string(), name);
        }
        let spoken = Platform { os: "linux".to_owned(), architecture: "aarch64".to_owned(), variant: None };
        assert_eq!(spoken.canonical().to_string(), "linux/arm64");
    }
}
