//! Which licences the models of a stack may have.
//!
//! What a model has is an expression of SPDX (*Annex D*): identifiers with `WITH`, `AND` and `OR`. A rule is an identifier,
//! whatever its case, or the beginning of some with a `*` behind it. Of alternatives one that may be used is enough.

use serde::{Deserialize, Serialize};
use spdx::expression::{ExprNode, ExpressionReq, Operator};
use spdx::{AdditionItem, Expression, LicenseItem, ParseMode};

use super::spelled;

use crate::class::{Class, Classified};

/// What a stack says of licences.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(crate) struct LicencePolicy {
    /// If there is such a list, one of its rules has to fit.
    #[serde(default)]
    pub(crate) allow: Option<Vec<String>>,
    /// None of these may fit, whatever else is allowed.
    #[serde(default)]
    pub(crate) deny: Vec<String>,
    /// What becomes of a model whose licence is not known, where there are rules.
    #[serde(default)]
    pub(crate) unknown: Unknown,
}

/// What becomes of a model whose licence is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Unknown {
    /// It is warned of.
    #[default]
    Warn,
    /// It is refused.
    Deny,
}

/// Why a stack may not have a model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum PolicyError {
    /// A rule is against it.
    #[error(
        "model '{model}' has the licence {licence}, which '{rule}' in {rules}.deny refuses; leave the model out, or take \
         that rule away"
    )]
    Denied {
        model: String,
        /// Where the rules stand: `licences`.
        rules: &'static str,
        /// Its licence.
        licence: String,
        /// The rule.
        rule: String,
    },
    /// No rule is for it.
    #[error(
        "model '{model}' has the licence {licence}, and {rules}.allow has only {}; leave the model out, or add its licence \
         there", list(.allow)
    )]
    NotAllowed {
        model: String,
        /// Where the rules stand.
        rules: &'static str,
        /// Its licence.
        licence: String,
        /// The rules.
        allow: Vec<String>,
    },
    /// Its licence is not known.
    #[error(
        "nothing says which licence model '{model}' has, and {rules}.unknown is \"deny\"; {}, or leave the model out",
        SAY_IT
    )]
    Unknown {
        model: String,
        /// Where the rules stand.
        rules: &'static str,
    },
}

impl Classified for PolicyError {
    fn class(&self) -> Class {
        match self {
            Self::Denied { .. } | Self::NotAllowed { .. } | Self::Unknown { .. } => Class::Failed,
        }
    }
}

const SAY_IT: &str = "say it in the model's annotations as org.opencontainers.image.licenses";

fn list(rules: &[String]) -> String {
    if rules.is_empty() { "nothing".to_owned() } else { rules.join(", ") }
}

impl LicencePolicy {
    /// Whether it asks for anything.
    #[must_use]
    pub(crate) const fn is_empty(&self) -> bool {
        self.allow.is_none() && self.deny.is_empty() && matches!(self.unknown, Unknown::Warn)
    }

    /// Checks what the types leave open.
    ///
    /// # Errors
    /// With the key, `.deny`, and what is wrong with it.
    pub(crate) fn check_rules(&self) -> Result<(), (&'static str, String)> {
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

    /// Whether a model of this licence may be in the stack; what there is to be warned of. `rules` is where a spec has them.
    ///
    /// # Errors
    /// If it may not.
    pub(crate) fn check(
        &self,
        rules: &'static str,
        model: &str,
        licence: Option<&str>,
    ) -> Result<Option<String>, PolicyError> {
        if self.is_empty() {
            return Ok(None);
        }
        let model = model.to_owned();
        let Some(licence) = licence.filter(|licence| !["", "NOASSERTION", "NONE"].contains(licence)) else {
            return match self.unknown {
                Unknown::Deny => Err(PolicyError::Unknown { model, rules }),
                Unknown::Warn => Ok(Some(format!("nothing says which licence model '{model}' has; {SAY_IT}"))),
            };
        };
        let verdict = self.verdict(licence);
        let licence = licence.to_owned();
        verdict.map(|()| None).map_err(|rule| match rule {
            Some(rule) => PolicyError::Denied { model, rules, licence, rule: rule.to_owned() },
            None => PolicyError::NotAllowed { model, rules, licence, allow: self.allow.clone().unwrap_or_default() },
        })
    }

    /// Whether nothing may be there whose licence is not known.
    pub(crate) const fn denies_unknown(&self) -> bool {
        matches!(self.unknown, Unknown::Deny)
    }

    /// Whether a licence may be used; if not, the rule that is against it, if there is one.
    ///
    /// # Errors
    /// If it may not.
    pub(crate) fn verdict(&self, licence: &str) -> Result<(), Option<&str>> {
        let spelled = spelled(licence);
        let parsed = spelled.as_ref().and_then(|text| Some((text, Expression::parse_mode(text, MODE).ok()?)));
        // Other text is a licence that no rule but `*` is likely to fit.
        let Some((text, expression)) = parsed else { return self.verdict_of(licence) };
        // Operators come after what they join.
        let mut verdicts = Vec::new();
        for node in expression.iter() {
            let verdict = match node {
                ExprNode::Req(part) => self.verdict_of(&named(text, part)),
                ExprNode::Op(operator) => {
                    let (second, first) = (verdicts.pop().unwrap_or(Ok(())), verdicts.pop().unwrap_or(Ok(())));
                    match operator {
                        Operator::And => first.and(second),
                        Operator::Or if second.is_ok() => Ok(()),
                        Operator::Or => first,
                    }
                }
            };
            verdicts.push(verdict);
        }
        verdicts.pop().unwrap_or(Ok(()))
    }

    /// The same for one identifier with its exception.
    fn verdict_of(&self, id: &str) -> Result<(), Option<&str>> {
        if let Some(rule) = self.deny.iter().find(|rule| fits(rule, id)) {
            return Err(Some(rule));
        }
        let is_allowed = self.allow.as_ref().is_none_or(|allow| allow.iter().any(|rule| fits(rule, id)));
        if is_allowed { Ok(()) } else { Err(None) }
    }
}

/// How an expression is read: with identifiers that are newer than the list, too.
const MODE: ParseMode = ParseMode { allow_unknown: true, ..super::MODE };

/// A licence of an expression as it stands there, with its exception.
fn named(text: &str, part: &ExpressionReq) -> String {
    let (start, end) = (part.span.start as usize, part.span.end as usize);
    let or_later = matches!(part.req.license, LicenseItem::Spdx { or_later: true, .. });
    let name = format!("{}{}", text.get(start..end).unwrap_or(text), if or_later { "+" } else { "" });
    match &part.req.addition {
        None => name,
        Some(AdditionItem::Other(other)) => format!("{name} WITH {}", other.add_ref),
        Some(addition) => format!("{name} WITH {addition}"),
    }
}

/// Whether a rule fits an identifier, or what stands before its exception.
fn fits(rule: &str, id: &str) -> bool {
    let licence = id.split(" WITH ").next().unwrap_or(id);
    let spelled = spelled(rule).unwrap_or_else(|| rule.to_owned());
    [id, licence].into_iter().any(|id| match rule.strip_suffix('*') {
        Some(begin) => id.get(..begin.len()).is_some_and(|start| start.eq_ignore_ascii_case(begin)),
        None => id.eq_ignore_ascii_case(rule) || id == spelled,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: Option<&[&str]>, deny: &[&str], unknown: Unknown) -> LicencePolicy {
        let texts = |rules: &[&str]| rules.iter().map(|rule| (*rule).to_owned()).collect();
        LicencePolicy { allow: allow.map(texts), deny: texts(deny), unknown }
    }

    /// What is said of a model with this licence: nothing, a warning, or why not.
    fn said(policy: &LicencePolicy, licence: &str) -> String {
        match policy.check("licences", "m", Some(licence).filter(|licence| *licence != "-")) {
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
            (&allow, "apache-2.0 with llvm-exception", "ok"),
            (&allow, "Newer-1.0 OR MIT", "ok"),
            (&deny, "Newer-1.0 AND MIT", "ok"),
            (&deny, "MIT AND (LicenseRef-x OR LicenseRef-y)", denied),
            (&deny, "LicenseRef-x OR MIT", "ok"),
            (&deny, "LicenseRef-x AND MIT", denied),
            // Text that is not an expression is a licence that no rule allows.
            (&allow, "MIT OR", not_allowed),
            (&allow, "(MIT", not_allowed),
            (&allow, "MIT MIT", not_allowed),
            (&allow, "é", not_allowed),
        ] {
            assert_eq!(said(policy, licence), expected.replace(" L,", &format!(" {licence},")), "{licence}");
        }
        let own = policy(Some(&["MIT-0", "gpl-3.0", "Apache-2.0 WITH LLVM-exception"]), &[], Unknown::Warn);
        for (licence, is_allowed) in [
            ("MIT-0", true),
            ("mit-0", true),
            ("MIT", false),
            ("GPL-3.0-only", true),
            ("GPL-3.0-or-later", false),
            ("Apache-2.0 WITH LLVM-exception", true),
            ("Apache-2.0", false),
            ("Apache-2.0 WITH Classpath-exception-2.0", false),
        ] {
            assert_eq!(said(&own, licence) == "ok", is_allowed, "{licence}");
        }
        let deep = "(".repeat(100_000);
        assert!(said(&allow, &deep).contains("licences.allow has only"));
        assert!(said(&policy(Some(&[]), &[], Unknown::Warn), "MIT").contains("licences.allow has only nothing;"));
    }

    #[test]
    fn an_unknown_licence_is_warned_of_or_refused() {
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
