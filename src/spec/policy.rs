//! What a stack may have in it: licences, places that things come from, who has signed them, ages and vulnerabilities.
//!
//! Each part asks for nothing until it is given. There is no clock: what has an age is compared with a date that is given.

use std::path::PathBuf;

use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::model::licence::policy::LicencePolicy;

/// The rules of a stack.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub(crate) struct StackPolicy {
    /// Which licences its packages and models may have.
    pub(crate) licences: LicencePolicy,
    /// Names of packages whose licence is not looked at: scripts and configurations of one's own.
    pub(crate) unlicensed: Vec<String>,
    /// Where images of registries may come from: registries, `ghcr.io`, or repositories and all below them, `docker.io/qdrant`.
    pub(crate) registries: Option<Vec<String>>,
    /// Where models may be fetched from: hosts, `huggingface.co`, or addresses and all below them, `huggingface.co/Qwen`.
    pub(crate) models: Option<Vec<String>>,
    /// Who must have signed images of registries: digests of keys, `sha256:…`, or identities, as the lock's `verified` has them.
    pub(crate) signers: Option<Vec<String>>,
    /// How old images of registries may be.
    pub(crate) age: Option<AgePolicy>,
    /// Which vulnerabilities a scanner may have found.
    pub(crate) vulnerabilities: Option<VulnerabilityPolicy>,
}

/// How old an image of a registry may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct AgePolicy {
    /// Days from when its config says that it was made.
    pub(crate) days: u32,
    /// The date that they are counted to, `2026-11-30`.
    pub(crate) as_of: String,
}

/// Which vulnerabilities there may be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct VulnerabilityPolicy {
    /// What a scanner wrote: CycloneDX with vulnerabilities, the JSON of grype, or that of cve-bin-tool.
    pub(crate) report: PathBuf,
    /// The highest severity that is allowed.
    #[serde(default)]
    pub(crate) most: Severity,
    /// Vulnerabilities that are allowed whatever their severity: `CVE-2026-1234`.
    #[serde(default)]
    pub(crate) allow: Vec<String>,
}

/// How bad a vulnerability is, in the words of CVSS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Severity {
    /// Nothing to be afraid of.
    #[default]
    None,
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    /// The word for it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }

    /// What a scanner means by a word. One that does not know how bad it is, is taken to mean the worst.
    pub(crate) fn of(word: &str) -> Self {
        match word.to_ascii_lowercase().as_str() {
            "none" | "info" | "informational" | "negligible" => Self::None,
            "low" => Self::Low,
            "medium" | "moderate" => Self::Medium,
            "high" | "important" => Self::High,
            _ => Self::Critical,
        }
    }
}

impl AgePolicy {
    /// The day that ages are counted to.
    pub(crate) fn day(&self) -> Option<Date> {
        self.as_of.parse().ok()
    }

    /// How many days old something is that was made then, in whole days; `None` for what says nothing sensible.
    pub(crate) fn age_of(&self, created: &str) -> Option<i64> {
        let made: Timestamp = created.parse().ok()?;
        // Reproducible images are of 1970 or 1980, whenever they were made.
        let made = made.strftime("%Y-%m-%d").to_string().parse::<Date>().ok().filter(|day| day.year() > 1980)?;
        Some(i64::from(self.day()?.since(made).ok()?.get_days()))
    }
}

impl StackPolicy {
    /// Whether it asks for nothing.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Checks what the types leave open.
    ///
    /// # Errors
    /// With the key, `.age.asOf`, and what is wrong with it.
    pub(crate) fn check_rules(&self) -> Result<(), (String, String)> {
        self.licences.check_rules().map_err(|(key, message)| (format!(".licences{key}"), message))?;
        if let Some(age) = self.age.as_ref().filter(|age| age.day().is_none()) {
            return Err((".age.asOf".to_owned(), format!("'{}' is not a date like 2026-11-30", age.as_of)));
        }
        for (key, rules) in [("registries", &self.registries), ("models", &self.models), ("signers", &self.signers)] {
            let bad = |rule: &&String| rule.trim().is_empty() || (key != "signers" && rule.contains("://"));
            if let Some(rule) = rules.iter().flatten().find(bad) {
                let message = format!("'{rule}' is not a host or a path on one, like ghcr.io or docker.io/qdrant");
                return Err((format!(".{key}"), message));
            }
        }
        Ok(())
    }
}

/// Whether a place is one of these, or below one of them.
pub(crate) fn is_below(place: &str, rules: &[String]) -> bool {
    rules
        .iter()
        .map(|rule| rule.trim_end_matches('/'))
        .any(|rule| place.strip_prefix(rule).is_some_and(|rest| rest.is_empty() || rest.starts_with('/')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_below_a_host_or_a_path_and_not_below_what_only_begins_so() {
        let rules = ["docker.io/qdrant".to_owned(), "ghcr.io/".to_owned()];
        for (place, fits) in [
            ("docker.io/qdrant", true),
            ("docker.io/qdrant/qdrant", true),
            ("docker.io/qdrant-evil/qdrant", false),
            ("ghcr.io/a/b", true),
            ("ghcr.io.evil/a", false),
        ] {
            assert_eq!(is_below(place, &rules), fits, "{place}");
        }
    }

    #[test]
    fn ages_are_counted_in_days_and_1970_is_no_age() {
        let age = AgePolicy { days: 1, as_of: "2026-11-30".to_owned() };
        assert_eq!(age.age_of("2026-11-29T23:59:59Z"), Some(1));
        assert_eq!(age.age_of("2025-11-30T00:00:00+02:00"), Some(366));
        for nothing in ["1970-01-01T00:00:01Z", "1980-01-01T00:00:00Z", "yesterday", ""] {
            assert_eq!(age.age_of(nothing), None, "{nothing}");
        }
    }
}
