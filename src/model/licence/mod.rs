//! The licence of a model, in SPDX's words.
//!
//! Which identifiers and exceptions there are, and what an expression is, says the crate `spdx`.
//!
//! Models name their licence as Hugging Face does, by identifiers of its own (`apache-2.0`, `llama3.1`, `other` with a
//! name beside it). Policies, labels and lists of materials speak SPDX: identifiers that SPDX lists, and `LicenseRef-…`
//! for all others. A name that is not known is kept as such a reference and never mapped to what looks like it.

pub(crate) mod policy;

use spdx::identifiers::{EXCEPTIONS, LICENSES};
use spdx::{AdditionItem, Expression, LicenseItem, ParseMode, gnu_license_id, license_id};

use crate::nix::package::PackageRecord;

/// Identifiers of Hugging Face, and the SPDX identifiers of the same licences, where SPDX has others.
const TABLE: &[(&str, &str)] = &[
    ("agpl-3.0", "AGPL-3.0-only"),
    ("c-uda", "C-UDA-1.0"),
    // Without "or later", a later version is not allowed.
    ("gpl-2.0", "GPL-2.0-only"),
    ("gpl-3.0", "GPL-3.0-only"),
    ("lgpl-2.1", "LGPL-2.1-only"),
    ("lgpl-3.0", "LGPL-3.0-only"),
    ("lgpl-lr", "LGPLLR"),
    ("odbl", "ODbL-1.0"),
    ("odc-by", "ODC-By-1.0"),
    ("pddl", "PDDL-1.0"),
];

/// The characters of a reference that is made from a name, at most.
const MAX_REFERENCE: usize = 64;

/// Longer texts are no expression: what a file says is of any length.
const LONGEST: usize = 1000;

/// How the `spdx` crate reads an expression, once each word has the spelling of SPDX' list.
const MODE: ParseMode = ParseMode { allow_deprecated: true, ..ParseMode::STRICT };

/// The SPDX expression for what a model says: its `license`, and the `license.name` and `license.link` that go with
/// `other`. `None` if it says nothing.
#[must_use]
pub fn spdx(licence: Option<&str>, name: Option<&str>, link: Option<&str>) -> Option<String> {
    let said = |text: Option<&str>| {
        let text = text?.trim();
        (!text.is_empty() && !text.eq_ignore_ascii_case("unknown")).then(|| text.to_owned())
    };
    match said(licence) {
        Some(other) if other.eq_ignore_ascii_case("other") => {
            Some(said(name).map_or_else(|| reference("other"), |name| expression(&name)))
        }
        Some(licence) => Some(expression(&licence)),
        // A name or a text without an identifier is still a licence.
        None => said(name).map(|name| expression(&name)).or_else(|| said(link).map(|_| reference("other"))),
    }
}

/// The SPDX expression for what nixpkgs says of a package: of several licences all are taken to hold, as nixpkgs does not say
/// which of them may be chosen. `None` if it says nothing.
#[must_use]
pub(crate) fn of_package(package: &PackageRecord) -> Option<String> {
    let all: Vec<String> = package
        .licences
        .iter()
        .filter_map(|licence| spdx(licence.spdx.as_deref(), licence.name.as_deref(), None))
        .map(|licence| if licence.contains(" OR ") { format!("({licence})") } else { licence })
        .collect();
    (!all.is_empty()).then(|| all.join(" AND "))
}

/// An expression of known identifiers in SPDX's spelling; else one reference for all of the text.
fn expression(text: &str) -> String {
    let spelled = spelled(text).filter(|text| Expression::parse_mode(text, MODE).is_ok_and(|parsed| is_known(&parsed)));
    spelled.unwrap_or_else(|| reference(text))
}

/// Whether each reference in an expression is one as [`reference()`] makes them: the crate takes any, and references to exceptions.
fn is_known(expression: &Expression) -> bool {
    expression.requirements().all(|part| {
        let licence = match &part.req.license {
            LicenseItem::Spdx { .. } => true,
            LicenseItem::Other(reference) => identifier(&reference.to_string()).is_some(),
        };
        licence && !matches!(part.req.addition, Some(AdditionItem::Other(_)))
    })
}

/// A text with each word that SPDX lists in its spelling; `None` if it is longer than any expression.
fn spelled(text: &str) -> Option<String> {
    if text.len() > LONGEST {
        return None;
    }
    let spaced = text.replace('(', " ( ").replace(')', " ) ");
    let word = |word: &str| {
        let operator = ["AND", "OR", "WITH"].into_iter().find(|operator| operator.eq_ignore_ascii_case(word));
        operator.map(str::to_owned).or_else(|| identifier(word)).unwrap_or_else(|| word.to_owned())
    };
    let words: Vec<String> = spaced.split_ascii_whitespace().map(word).collect();
    Some(words.join(" ").replace("( ", "(").replace(" )", ")"))
}

/// The identifier of a licence or an exception that Hugging Face's or SPDX's own stands for, in any case; with a `+` if it has one.
fn identifier(text: &str) -> Option<String> {
    let tail = text.strip_prefix("LicenseRef-");
    if tail.is_some_and(|tail| tail.len() <= MAX_REFERENCE && reference(tail) == text) {
        return Some(text.to_owned());
    }
    let (name, or_later) = text.strip_suffix('+').map_or((text, false), |name| (name, true));
    let table = TABLE.iter().find(|(id, _)| id.eq_ignore_ascii_case(name)).map(|(_, spdx)| *spdx);
    let listed = || LICENSES.iter().map(|licence| licence.name).find(|listed| listed.eq_ignore_ascii_case(name));
    let exception = || EXCEPTIONS.iter().map(|listed| listed.name).find(|listed| listed.eq_ignore_ascii_case(name));
    let Some(id) = table.or_else(listed).and_then(license_id) else {
        return exception().filter(|_| !or_later).map(str::to_owned);
    };
    // GNU's licences have no `+`, and without "or later" a later version is not allowed.
    let gnu = id.is_gnu() && (or_later || id.is_deprecated());
    let gnu = gnu.then(|| gnu_license_id(id.name.trim_end_matches("-only"), or_later)).flatten();
    Some(gnu.map_or_else(|| format!("{}{}", id.name, if or_later { "+" } else { "" }), |gnu| gnu.name.to_owned()))
}

/// `LicenseRef-` and the name, of letters, digits, dots and dashes.
fn reference(name: &str) -> String {
    let mut clean = String::new();
    for c in name.chars() {
        match c {
            c if c.is_ascii_alphanumeric() || c == '.' => clean.push(c),
            _ if clean.is_empty() || clean.ends_with('-') => {}
            _ => clean.push('-'),
        }
    }
    clean.truncate(MAX_REFERENCE);
    let clean = clean.trim_matches(['-', '.']);
    format!("LicenseRef-{}", if clean.is_empty() { "other" } else { clean })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(licence: &str) -> Option<String> {
        spdx(Some(licence), None, None)
    }

    #[test]
    fn identifiers_of_hugging_face_become_those_of_spdx() {
        for (licence, expected) in [
            ("gpl-3.0", "GPL-3.0-only"),
            ("llama3.1", "LicenseRef-llama3.1"),
            ("gemma", "LicenseRef-gemma"),
            ("openrail++", "LicenseRef-openrail"),
            ("bsd", "LicenseRef-bsd"),
            ("GPL-2.0+", "GPL-2.0-or-later"),
            ("GPL-1.0", "GPL-1.0-only"),
            ("Apache-2.0 WITH my-exception", "LicenseRef-Apache-2.0-WITH-my-exception"),
            ("LLVM-exception", "LicenseRef-LLVM-exception"),
        ] {
            assert_eq!(of(licence).unwrap(), expected);
        }
    }

    #[test]
    fn all_licences_of_a_package_hold() {
        let package = |licences: serde_json::Value| {
            of_package(&serde_json::from_value(serde_json::json!({ "licences": licences })).unwrap())
        };
        let both = serde_json::json!([{ "spdx": "LGPL-2.1-or-later", "name": "GNU" }, { "name": "Unfree firmware" }]);
        assert_eq!(package(both).unwrap(), "LGPL-2.1-or-later AND LicenseRef-Unfree-firmware");
        assert_eq!(package(serde_json::json!([{ "spdx": "MIT OR ISC" }])).unwrap(), "(MIT OR ISC)");
        assert_eq!(package(serde_json::json!([])), None);
        assert_eq!(package(serde_json::json!([{}])), None);
    }

    #[test]
    fn the_table_is_sorted_and_has_each_identifier_once() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
        for (id, spdx) in TABLE {
            assert_eq!(identifier(id).as_deref(), Some(*spdx));
            assert_eq!(identifier(spdx).as_deref(), Some(*spdx));
        }
    }

    #[test]
    fn other_has_a_name_or_none() {
        assert_eq!(spdx(Some("other"), Some("Qwen Research"), None).unwrap(), "LicenseRef-Qwen-Research");
        assert_eq!(spdx(Some("other"), Some("apache-2.0"), None).unwrap(), "Apache-2.0");
        assert_eq!(spdx(Some("other"), None, Some("https://example.org/LICENSE")).unwrap(), "LicenseRef-other");
        assert_eq!(spdx(None, Some("my licence"), None).unwrap(), "LicenseRef-my-licence");
        assert_eq!(spdx(None, None, Some("https://example.org/LICENSE")).unwrap(), "LicenseRef-other");
        for nothing in [None, Some(""), Some("unknown"), Some(" ")] {
            assert_eq!(spdx(nothing, None, None), None);
        }
    }

    #[test]
    fn an_expression_is_known_as_a_whole_or_not_at_all() {
        assert_eq!(of("(mit AND isc) OR cc0-1.0").unwrap(), "(MIT AND ISC) OR CC0-1.0");
        for broken in ["mit OR", "OR mit", "mit isc", "(mit", "mit)", "mit OR gemma-terms !", "()"] {
            let text = of(broken).unwrap();
            assert!(text.starts_with("LicenseRef-") && !text.contains(' '), "{broken}: {text}");
        }
    }

    #[test]
    fn a_reference_has_clean_characters_and_an_end() {
        for hostile in ["\u{0}\n", "…", "LicenseRef-", "LicenseRef-a b", "--", "..", &"x y".repeat(10_000)] {
            let text = of(hostile).unwrap();
            let tail = text.strip_prefix("LicenseRef-").unwrap();
            assert!(!tail.is_empty() && tail.len() <= MAX_REFERENCE, "{text}");
            assert!(tail.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte)), "{text}");
            // It is its own name.
            assert_eq!(of(&text).unwrap(), text);
        }
    }
}
