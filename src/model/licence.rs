//! The licence of a model, in SPDX's words.
//!
//! Models name their licence as Hugging Face does, by identifiers of its own (`apache-2.0`, `llama3.1`, `other` with a
//! name beside it). Policies, labels and lists of materials speak SPDX: identifiers that SPDX lists, and `LicenseRef-…`
//! for all others. A name that is not known is kept as such a reference and never mapped to what looks like it.

/// Identifiers of Hugging Face, and the SPDX identifiers of the same licences, where SPDX has them.
const TABLE: &[(&str, &str)] = &[
    ("afl-3.0", "AFL-3.0"),
    ("agpl-3.0", "AGPL-3.0-only"),
    ("apache-2.0", "Apache-2.0"),
    ("artistic-2.0", "Artistic-2.0"),
    ("bsd-2-clause", "BSD-2-Clause"),
    ("bsd-3-clause", "BSD-3-Clause"),
    ("bsd-3-clause-clear", "BSD-3-Clause-Clear"),
    ("bsl-1.0", "BSL-1.0"),
    ("c-uda", "C-UDA-1.0"),
    ("cc-by-2.0", "CC-BY-2.0"),
    ("cc-by-2.5", "CC-BY-2.5"),
    ("cc-by-3.0", "CC-BY-3.0"),
    ("cc-by-4.0", "CC-BY-4.0"),
    ("cc-by-nc-2.0", "CC-BY-NC-2.0"),
    ("cc-by-nc-3.0", "CC-BY-NC-3.0"),
    ("cc-by-nc-4.0", "CC-BY-NC-4.0"),
    ("cc-by-nc-nd-3.0", "CC-BY-NC-ND-3.0"),
    ("cc-by-nc-nd-4.0", "CC-BY-NC-ND-4.0"),
    ("cc-by-nc-sa-2.0", "CC-BY-NC-SA-2.0"),
    ("cc-by-nc-sa-3.0", "CC-BY-NC-SA-3.0"),
    ("cc-by-nc-sa-4.0", "CC-BY-NC-SA-4.0"),
    ("cc-by-nd-4.0", "CC-BY-ND-4.0"),
    ("cc-by-sa-3.0", "CC-BY-SA-3.0"),
    ("cc-by-sa-4.0", "CC-BY-SA-4.0"),
    ("cc0-1.0", "CC0-1.0"),
    ("cdla-permissive-1.0", "CDLA-Permissive-1.0"),
    ("cdla-permissive-2.0", "CDLA-Permissive-2.0"),
    ("cdla-sharing-1.0", "CDLA-Sharing-1.0"),
    ("ecl-2.0", "ECL-2.0"),
    ("epl-1.0", "EPL-1.0"),
    ("epl-2.0", "EPL-2.0"),
    ("etalab-2.0", "etalab-2.0"),
    ("eupl-1.1", "EUPL-1.1"),
    ("eupl-1.2", "EUPL-1.2"),
    // Without "or later" nobody has said that a later one will do.
    ("gpl-2.0", "GPL-2.0-only"),
    ("gpl-3.0", "GPL-3.0-only"),
    ("isc", "ISC"),
    ("lgpl-2.1", "LGPL-2.1-only"),
    ("lgpl-3.0", "LGPL-3.0-only"),
    ("lgpl-lr", "LGPLLR"),
    ("lppl-1.3c", "LPPL-1.3c"),
    ("mit", "MIT"),
    ("mpl-2.0", "MPL-2.0"),
    ("ms-pl", "MS-PL"),
    ("ncsa", "NCSA"),
    ("odbl", "ODbL-1.0"),
    ("odc-by", "ODC-By-1.0"),
    ("ofl-1.1", "OFL-1.1"),
    ("osl-3.0", "OSL-3.0"),
    ("pddl", "PDDL-1.0"),
    ("postgresql", "PostgreSQL"),
    ("unlicense", "Unlicense"),
    ("wtfpl", "WTFPL"),
    ("zlib", "Zlib"),
];

/// SPDX identifiers that Hugging Face has no word for, and that files have all the same.
const MORE: &[&str] =
    &["0BSD", "AGPL-3.0-or-later", "GPL-2.0-or-later", "GPL-3.0-or-later", "LGPL-2.1-or-later", "LGPL-3.0-or-later"];

/// The characters of a reference that is made from a name, at most.
const MAX_REFERENCE: usize = 64;

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

/// An expression of known identifiers in SPDX's spelling; else one reference for all of the text.
fn expression(text: &str) -> String {
    if let Some(known) = identifier(text) {
        return known.to_owned();
    }
    let spaced = text.replace('(', " ( ").replace(')', " ) ");
    let mut words = Vec::new();
    let (mut operand, mut open) = (true, 0_u32);
    for word in spaced.split_ascii_whitespace() {
        let known = match word {
            "(" if operand => {
                open += 1;
                "("
            }
            ")" if !operand && open > 0 => {
                open -= 1;
                ")"
            }
            "AND" | "OR" if !operand => {
                operand = true;
                word
            }
            _ if operand && let Some(known) = identifier(word) => {
                operand = false;
                known
            }
            _ => return reference(text),
        };
        words.push(known);
    }
    if operand || open > 0 {
        return reference(text);
    }
    words.join(" ").replace("( ", "(").replace(" )", ")")
}

/// The SPDX identifier that Hugging Face's or SPDX's own stands for, in any case.
fn identifier(text: &str) -> Option<&str> {
    let tail = text.strip_prefix("LicenseRef-");
    if tail.is_some_and(|tail| tail.len() <= MAX_REFERENCE && reference(tail) == text) {
        return Some(text);
    }
    let listed = TABLE.iter().find(|(id, spdx)| id.eq_ignore_ascii_case(text) || spdx.eq_ignore_ascii_case(text));
    listed.map(|(_, spdx)| *spdx).or_else(|| MORE.iter().copied().find(|spdx| spdx.eq_ignore_ascii_case(text)))
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
            ("apache-2.0", "Apache-2.0"),
            ("Apache-2.0", "Apache-2.0"),
            ("MIT", "MIT"),
            ("gpl-3.0", "GPL-3.0-only"),
            ("GPL-3.0-or-later", "GPL-3.0-or-later"),
            ("llama3.1", "LicenseRef-llama3.1"),
            ("gemma", "LicenseRef-gemma"),
            ("openrail++", "LicenseRef-openrail"),
            ("bsd", "LicenseRef-bsd"),
            ("LicenseRef-Own-1.0", "LicenseRef-Own-1.0"),
            ("mit OR apache-2.0", "MIT OR Apache-2.0"),
        ] {
            assert_eq!(of(licence).unwrap(), expected);
        }
    }

    #[test]
    fn the_table_is_sorted_and_has_each_identifier_once() {
        assert!(TABLE.is_sorted_by(|a, b| a.0 < b.0));
        for (id, spdx) in TABLE {
            assert_eq!(identifier(id), Some(*spdx));
            assert_eq!(identifier(spdx), Some(*spdx));
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
