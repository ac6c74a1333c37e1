//! Which licences the models of a stack may have.
//!
//! What a model has is an expression of SPDX (*Annex D*): identifiers with `WITH`, `AND` and `OR`. A rule is an identifier,
//! whatever its case, or the beginning of some with a `*` behind it. Of alternatives one that may be used is enough.

use serde::{Deserialize, Serialize};

/// What a stack says of licences.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// If there is such a list, one of its rules has to fit.
    #[serde(default)]
    pub allow: Option<Vec<String>>,
    /// None of these may fit, whatever else is allowed.
    #[serde(default)]
    pub deny: Vec<String>,
    /// What becomes of a model whose licence nobody knows, where there are rules.
    #[serde(default)]
    pub unknown: Unknown,
}

/// What becomes of a model whose licence nobody knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unknown {
    /// It is warned of.
    #[default]
    Warn,
    /// It is refused.
    Deny,
}

/// Why a stack may not have a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PolicyError {
    /// A rule is against it.
    #[error(
        "model '{model}' has the licence {licence}, which '{rule}' in licences.deny refuses; leave the model out, or take \
         that rule away"
    )]
    Denied {
        /// The model.
        model: String,
        /// Its licence.
        licence: String,
        /// The rule.
        rule: String,
    },
    /// No rule is for it.
    #[error(
        "model '{model}' has the licence {licence}, and licences.allow has only {}; leave the model out, or add its licence \
         there", list(.allow)
    )]
    NotAllowed {
        /// The model.
        model: String,
        /// Its licence.
        licence: String,
        /// The rules.
        allow: Vec<String>,
    },
    /// Nobody knows its licence.
    #[error(
        "nothing says which licence model '{model}' has, and licences.unknown is \"deny\"; {}, or leave the model out",
        SAY_IT
    )]
    Unknown {
        /// The model.
        model: String,
    },
}

const SAY_IT: &str = "say it in the model's annotations as org.opencontainers.image.licenses";

fn list(rules: &[String]) -> String {
    if rules.is_empty() { "nothing".to_owned() } else { rules.join(", ") }
}

impl Policy {
    /// Whether it asks for anything.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty() && matches!(self.unknown, Unknown::Warn)
    }

    /// Checks what the types leave open.
    ///
    /// # Errors
    /// With the key, `.deny`, and what is wrong with it.
    pub fn check_rules(&self) -> Result<(), (&'static str, String)> {
        let rules = self.allow.iter().flatten().map(|rule| (".allow", rule));
        for (key, rule) in rules.chain(self.deny.iter().map(|rule| (".deny", rule))) {
            let id = rule.strip_suffix('*').unwrap_or(rule);
            let fits = |c: char| c.is_ascii_alphanumeric() || "-.+: ".contains(c);
            if rule.is_empty() || !id.chars().all(fits) {
                let message =
                    format!("'{rule}' is no SPDX identifier, like Apache-2.0 or with a * at its end LicenseRef-*");
                return Err((key, message));
            }
        }
        Ok(())
    }

    /// Whether a model of this licence may be in the stack; what there is to be warned of.
    ///
    /// # Errors
    /// If it may not.
    pub fn check(&self, model: &str, licence: Option<&str>) -> Result<Option<String>, PolicyError> {
        if self.is_empty() {
            return Ok(None);
        }
        let model = model.to_owned();
        let Some(licence) = licence.filter(|licence| !["", "NOASSERTION", "NONE"].contains(licence)) else {
            return match self.unknown {
                Unknown::Deny => Err(PolicyError::Unknown { model }),
                Unknown::Warn => Ok(Some(format!("nothing says which licence model '{model}' has; {SAY_IT}"))),
            };
        };
        let verdict = self.verdict(&Expression::parse(licence));
        let licence = licence.to_owned();
        verdict.map(|()| None).map_err(|rule| match rule {
            Some(rule) => PolicyError::Denied { model, licence, rule: rule.to_owned() },
            None => PolicyError::NotAllowed { model, licence, allow: self.allow.clone().unwrap_or_default() },
        })
    }

    /// Whether a licence may be used; if not, the rule that is against it, if there is one.
    fn verdict(&self, expression: &Expression) -> Result<(), Option<&str>> {
        match expression {
            Expression::Id(id) => {
                if let Some(rule) = self.deny.iter().find(|rule| fits(rule, id)) {
                    return Err(Some(rule));
                }
                let is_allowed = self.allow.as_ref().is_none_or(|allow| allow.iter().any(|rule| fits(rule, id)));
                if is_allowed { Ok(()) } else { Err(None) }
            }
            Expression::All(parts) => parts.iter().try_for_each(|part| self.verdict(part)),
            Expression::Any(parts) => {
                let mut verdicts = parts.iter().map(|part| self.verdict(part));
                let first = verdicts.next().unwrap_or(Ok(()));
                if first.is_ok() || verdicts.any(|verdict| verdict.is_ok()) { Ok(()) } else { first }
            }
        }
    }
}

/// Whether a rule fits an identifier, or what stands before its exception.
fn fits(rule: &str, id: &str) -> bool {
    let licence = id.split(" WITH ").next().unwrap_or(id);
    [id, licence].into_iter().any(|id| match rule.strip_suffix('*') {
        Some(begin) => id.get(..begin.len()).is_some_and(|start| start.eq_ignore_ascii_case(begin)),
        None => id.eq_ignore_ascii_case(rule),
    })
}

/// An expression of SPDX.
#[derive(Debug, PartialEq, Eq)]
enum Expression {
    /// An identifier, with its exception.
    Id(String),
    /// All of these apply.
    All(Vec<Self>),
    /// One of these applies, as one likes.
    Any(Vec<Self>),
}

/// Texts that are longer are no expression: what a file says is of any length, and any depth.
const LONGEST: usize = 1000;

impl Expression {
    /// Reads an expression; what is none is an identifier that no rule but `*` is likely to fit.
    fn parse(text: &str) -> Self {
        let whole = || Self::Id(text.to_owned());
        if text.len() > LONGEST {
            return whole();
        }
        let spaced = text.replace('(', " ( ").replace(')', " ) ");
        let mut words = spaced.split_whitespace().peekable();
        match Self::any(&mut words) {
            Some(expression) if words.peek().is_none() => expression,
            _ => whole(),
        }
    }

    fn any(words: &mut Words<'_>) -> Option<Self> {
        Self::joined(words, "OR", Self::Any, |words| Self::joined(words, "AND", Self::All, Self::one))
    }

    fn joined(
        words: &mut Words<'_>,
        by: &str,
        join: fn(Vec<Self>) -> Self,
        part: fn(&mut Words<'_>) -> Option<Self>,
    ) -> Option<Self> {
        let mut parts = vec![part(words)?];
        while words.next_if(|word| word.eq_ignore_ascii_case(by)).is_some() {
            parts.push(part(words)?);
        }
        if parts.len() == 1 { parts.pop() } else { Some(join(parts)) }
    }

    fn one(words: &mut Words<'_>) -> Option<Self> {
        let is_word =
            |word: &str| !["OR", "AND", "WITH", "(", ")"].iter().any(|other| word.eq_ignore_ascii_case(other));
        match words.next()? {
            "(" => Self::any(words).filter(|_| words.next() == Some(")")),
            id if is_word(id) => match words.next_if(|word| word.eq_ignore_ascii_case("WITH")) {
                None => Some(Self::Id(id.to_owned())),
                Some(_) => words.next().filter(|word| is_word(word)).map(|word| Self::Id(format!("{id} WITH {word}"))),
            },
            _ => None,
        }
    }
}

/// The words of an expression, parentheses among them.
type Words<'a> = std::iter::Peekable<std::str::SplitWhitespace<'a>>;

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: Option<&[&str]>, deny: &[&str], unknown: Unknown) -> Policy {
        let texts = |rules: &[&str]| rules.iter().map(|rule| (*rule).to_owned()).collect();
        Policy { allow: allow.map(texts), deny: texts(deny), unknown }
    }

    /// What is said of a model with this licence: nothing, a warning, or why not.
    fn said(policy: &Policy, licence: &str) -> String {
        match policy.check("m", Some(licence).filter(|licence| *licence != "-")) {
            Ok(warning) => warning.unwrap_or_else(|| "ok".to_owned()),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn what_is_denied_is_denied_and_of_a_list_one_has_to_fit() {
        let denied = "model 'm' has the licence L, which 'LicenseRef-*' in licences.deny refuses; leave the model out, or take that rule away";
        let not_allowed = "model 'm' has the licence L, and licences.allow has only Apache-2.0, MIT; leave the model out, or add its licence there";
        let deny = policy(None, &["LicenseRef-*", "CC-BY-NC-4.0"], Unknown::Warn);
        let allow = policy(Some(&["Apache-2.0", "MIT"]), &[], Unknown::Warn);
        let both = policy(Some(&["*"]), &["LicenseRef-*"], Unknown::Warn);
        for (policy, licence, expected) in [
            (&deny, "LicenseRef-llama3.1", denied),
            (&deny, "licenseref-gemma", denied),
            (&deny, "Apache-2.0", "ok"),
            (&deny, "LicenseRef", "ok"),
            (&both, "LicenseRef-gemma", denied),
            (&both, "MIT", "ok"),
            (&allow, "MIT", "ok"),
            (&allow, "mit", "ok"),
            (&allow, "MIT-0", not_allowed),
            // One of several, or all of them.
            (&allow, "GPL-3.0-only OR MIT", "ok"),
            (&allow, "GPL-3.0-only AND MIT", not_allowed),
            (&allow, "(GPL-3.0-only OR MIT) AND Apache-2.0", "ok"),
            (&allow, "Apache-2.0 WITH LLVM-exception", "ok"),
            (&deny, "LicenseRef-x OR MIT", "ok"),
            (&deny, "LicenseRef-x AND MIT", denied),
            // What is no expression is a licence that nobody has allowed.
            (&allow, "MIT OR", not_allowed),
            (&allow, "(MIT", not_allowed),
            (&allow, "MIT MIT", not_allowed),
            (&allow, "é", not_allowed),
        ] {
            assert_eq!(said(policy, licence), expected.replace(" L,", &format!(" {licence},")), "{licence}");
        }
        let deep = "(".repeat(100_000);
        assert!(said(&allow, &deep).contains("licences.allow has only"));
        assert!(said(&policy(Some(&[]), &[], Unknown::Warn), "MIT").contains("licences.allow has only nothing;"));
    }

    #[test]
    fn a_licence_that_nobody_knows_is_warned_of_or_refused() {
        let warned = "nothing says which licence model 'm' has; say it in the model's annotations as org.opencontainers.image.licenses";
        let refused = "nothing says which licence model 'm' has, and licences.unknown is \"deny\"; say it in the model's annotations as \
                       org.opencontainers.image.licenses, or leave the model out";
        for (policy, expected) in [
            (policy(None, &[], Unknown::Warn), "ok"),
            (policy(None, &["X"], Unknown::Warn), warned),
            (policy(Some(&["X"]), &[], Unknown::Warn), warned),
            (policy(None, &[], Unknown::Deny), refused),
        ] {
            assert_eq!([said(&policy, "-"), said(&policy, "NOASSERTION")], [expected, expected]);
        }
    }

    #[test]
    fn a_rule_is_an_identifier() {
        for (rule, is_one) in
            [("MIT", true), ("GPL-2.0+", true), ("*", true), ("LicenseRef-*", true), ("A WITH B", true)]
                .into_iter()
                .chain([("", false), ("a*b", false), ("A/B", false), ("**", false)])
        {
            assert_eq!(policy(None, &[rule], Unknown::Warn).check_rules().is_ok(), is_one, "{rule}");
        }
        let error = policy(Some(&["a|b"]), &[], Unknown::Warn).check_rules().unwrap_err();
        assert_eq!(error.0, ".allow");
    }
}
