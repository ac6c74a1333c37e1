//! What may be in an image although it looks like a secret, and the report of what may not.

use regex::Regex;
use serde::{Deserialize, Serialize};

use super::SecretFinding;
use crate::names::is_unprintable;

/// Lines of a report that name something; a tree that others cannot read may have any number of files.
const SHOWN: usize = 100;

/// One entry of `allowSecrets`: an absolute path in the image, or the name of a variable, a label or an annotation, `Cmd` or
/// `Entrypoint`. In a path `*` stands for anything in one part and `**` for anything at all; of a directory all that is below it
/// is meant too.
#[derive(Debug, Clone, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Allowed {
    text: String,
    path: Option<Regex>,
}

impl TryFrom<String> for Allowed {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let is_path = text.starts_with('/');
        if text.is_empty() || text == "/" || (!is_path && text.contains(['/', '*'])) {
            return Err(format!("'{text}' is neither an absolute path in the image nor the name of a variable"));
        }
        let path = is_path.then(|| expression(&text)).transpose().map_err(|error| error.to_string())?;
        Ok(Self { text, path })
    }
}

impl From<Allowed> for String {
    fn from(allowed: Allowed) -> Self {
        allowed.text
    }
}

fn expression(glob: &str) -> Result<Regex, regex::Error> {
    let mut text = "^".to_owned();
    let mut rest = glob.trim_end_matches('/');
    while let Some(first) = rest.chars().next() {
        rest = match rest.strip_prefix("**") {
            Some(rest) => {
                text.push_str("(?s:.*)");
                rest
            }
            None if first == '*' => {
                text.push_str("[^/]*");
                &rest[1..]
            }
            None => {
                text.push_str(&regex::escape(&rest[..first.len_utf8()]));
                &rest[first.len_utf8()..]
            }
        };
    }
    text.push_str("(/|$)");
    Regex::new(&text)
}

impl Allowed {
    /// Whether it is about this finding.
    #[must_use]
    pub(crate) fn fits(&self, finding: &SecretFinding) -> bool {
        match &self.path {
            Some(path) => path.is_match(&finding.place),
            None => self.text == finding.place,
        }
    }
}

/// A finding that nothing allows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub(crate) struct RefusedFinding {
    /// What it would be in: `image 'app'`.
    pub(crate) of: String,
    /// The title of the layer; `None` for a variable.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) layer: Option<String>,
    /// What it is.
    #[serde(flatten)]
    pub(crate) finding: SecretFinding,
}

/// An entry of `allowSecrets` that nothing needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub(crate) struct Unused {
    /// Whose it is: `image 'app'`.
    pub(crate) of: String,
    /// The entry.
    pub(crate) entry: String,
}

/// What is wrong with all that is built together.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, schemars::JsonSchema)]
pub(crate) struct Verdict {
    /// What looks like a secret, and is not allowed.
    pub(crate) found: Vec<RefusedFinding>,
    /// What is allowed, and is not there.
    pub(crate) unused: Vec<Unused>,
}

impl Verdict {
    /// Holds what was found in something, with the layer that has it, against what is allowed there.
    #[must_use]
    pub(crate) fn of(of: &str, allowed: &[Allowed], findings: &[(Option<&str>, &SecretFinding)]) -> Self {
        let unused = allowed.iter().filter(|entry| !findings.iter().any(|(_, finding)| entry.fits(finding)));
        let unused = unused.map(|entry| Unused { of: of.to_owned(), entry: entry.text.clone() }).collect();
        let found = findings.iter().filter(|(_, finding)| !allowed.iter().any(|entry| entry.fits(finding)));
        let found = found.map(|(layer, finding)| RefusedFinding {
            of: of.to_owned(),
            layer: layer.map(str::to_owned),
            finding: (*finding).clone(),
        });
        Self { found: found.collect(), unused }
    }

    /// Adds what is wrong with something else.
    pub(crate) fn extend(&mut self, other: Self) {
        self.found.extend(other.found);
        self.unused.extend(other.unused);
    }

    /// Whether nothing is.
    #[must_use]
    pub(crate) const fn is_good(&self) -> bool {
        self.found.is_empty() && self.unused.is_empty()
    }

    /// The whole report, a line for each, and what to type.
    #[must_use]
    pub(crate) fn lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        if !self.found.is_empty() {
            lines.push(
                "this looks secret, and everyone with the image or an account on this host could read it:".to_owned(),
            );
        }
        for RefusedFinding { of, layer, finding: SecretFinding { place, source, reason } } in
            self.found.iter().take(SHOWN)
        {
            let layer = layer.as_ref().map(|title| format!(", layer '{title}'")).unwrap_or_default();
            let source = source.as_ref().map(|path| format!(" (from {})", path.display())).unwrap_or_default();
            lines.push(format!("  {of}{layer}: {place}{source} {reason}"));
        }
        if let Some(more) = self.found.len().checked_sub(SHOWN).filter(|more| *more > 0) {
            lines.push(format!("  and {more} more; `windlass plan --json` lists them all"));
        }
        let mut subjects: Vec<&str> = self.found.iter().map(|found| found.of.as_str()).collect();
        subjects.dedup();
        for of in subjects {
            let places = self.found.iter().filter(|found| found.of == of).map(|found| found.finding.place.as_str());
            let mut places: Vec<String> =
                places.take(SHOWN).map(|place| serde_json::to_string(place).expect("a string is JSON")).collect();
            places.sort();
            places.dedup();
            lines.push(format!(
                "leave it out; or, where it is not a secret, allow it in the spec of {of}: \"allowSecrets\": [{}] (in Nix: \
                 allowSecrets = [ {} ];)",
                places.join(", "),
                places.join(" ")
            ));
        }
        for Unused { of, entry } in &self.unused {
            lines
                .push(format!("{of}: allowSecrets has '{entry}', and nothing there looks like a secret: leave it out"));
        }
        let plain = |line: String| match line.contains(is_unprintable) {
            true => line
                .chars()
                .map(|c| if is_unprintable(c) { c.escape_unicode().to_string() } else { c.into() })
                .collect(),
            false => line,
        };
        lines.into_iter().map(plain).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_a_path_or_a_name() {
        let fits = |entry: &str, place: &str| {
            let finding = SecretFinding { place: place.to_owned(), source: None, reason: String::new() };
            Allowed::try_from(entry.to_owned()).unwrap().fits(&finding)
        };
        for (entry, place) in [
            ("/app/.env", "/app/.env"),
            ("/app", "/app/.env"),
            ("/app/", "/app/x/.env"),
            ("/app/*", "/app/.env"),
            ("/nix/store/*/tls.key", "/nix/store/x/tls.key"),
            ("/**/.env", "/a/b/.env"),
            ("/a+(b", "/a+(b"),
            ("API_KEY", "API_KEY"),
            ("Cmd", "Cmd"),
        ] {
            assert!(fits(entry, place), "{entry} {place}");
        }
        for (entry, place) in [
            ("/app/.env", "/app/.env.local"),
            ("/app/.env", "/srv/app/.env"),
            ("/app/.env", "/app/xenv"),
            ("/ap", "/app/.env"),
            ("/*/.env", "/a/b/.env"),
            ("API_KEY", "MY_API_KEY"),
            ("API_KEY", "/API_KEY"),
        ] {
            assert!(!fits(entry, place), "{entry} {place}");
        }
        for entry in ["", "/", "app/.env", "*_KEY"] {
            assert!(Allowed::try_from(entry.to_owned()).unwrap_err().contains("neither"), "{entry}");
        }
    }

    #[test]
    fn the_report_has_everything_once_and_nothing_that_a_terminal_obeys() {
        let finding = |place: &str| SecretFinding { place: place.to_owned(), source: None, reason: "is it".to_owned() };
        let [one, two] = [finding("/a\u{202e}\n"), finding("B")];
        let allowed = ["B", "C"].map(|entry| Allowed::try_from(entry.to_owned()).unwrap());
        let mut verdict = Verdict::of("image 'x'", &allowed, &[(Some("files"), &one), (None, &two)]);
        verdict.extend(Verdict::of("image 'y'", &[], &[(None, &two)]));
        assert_eq!(
            verdict.lines(),
            [
                "this looks secret, and everyone with the image or an account on this host could read it:",
                "  image 'x', layer 'files': /a\\u{202e}\\u{a} is it",
                "  image 'y': B is it",
                "leave it out; or, where it is not a secret, allow it in the spec of image 'x': \"allowSecrets\": \
                 [\"/a\\u{202e}\\n\"] (in Nix: allowSecrets = [ \"/a\\u{202e}\\n\" ];)",
                "leave it out; or, where it is not a secret, allow it in the spec of image 'y': \"allowSecrets\": \
                 [\"B\"] (in Nix: allowSecrets = [ \"B\" ];)",
                "image 'x': allowSecrets has 'C', and nothing there looks like a secret: leave it out",
            ]
        );
        assert!(!verdict.is_good());
        assert!(Verdict::of("image 'y'", &allowed[..1], &[(None, &two)]).is_good());
        let many = vec![(None, &two); 150];
        let lines = Verdict::of("image 'y'", &[], &many).lines();
        assert_eq!((lines.len(), lines[101].as_str()), (103, "  and 50 more; `windlass plan --json` lists them all"));
    }
}
