//! The table of what secrets look like, `patterns.json`: the modules of NixOS and home-manager read the same file.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use regex::Regex;
use serde::Deserialize;

use crate::oci::digest::Digest;

/// The whole table.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Table {
    pub(super) variables: SecretVariables,
    /// Values, in small letters, that are no secret under any name.
    pub(super) nothing: Vec<String>,
    /// How values begin, in small letters, that are there to be replaced.
    pub(super) placeholders: Vec<String>,
    pub(super) tokens: Vec<Token>,
    pub(super) private_keys: PrivateKeys,
    pub(super) files: Vec<FileRule>,
    /// Words in the name of a directory of a package that has keys which the whole world knows.
    pub(super) public_directories: Vec<String>,
    /// Keys that are elsewhere in sources which the whole world has.
    pub(super) public_keys: Vec<PublicKey>,
    /// Whether a token can begin with this byte: most bytes of a file are passed over by it.
    #[serde(skip, default = "no_byte")]
    pub(super) token_starts: [bool; 256],
    /// How names of `files` end: most files are passed over by it.
    #[serde(skip)]
    pub(super) ends: NameEnds,
}

/// What the last part of a path has to end or begin with to fit any of some names.
#[derive(Debug, Default)]
pub(super) struct NameEnds {
    /// The last two bytes of names that end in more than a `*`.
    last: BTreeSet<[u8; 2]>,
    /// What the others begin with.
    first: Vec<Vec<u8>>,
}

impl NameEnds {
    fn of<'a>(names: impl Iterator<Item = &'a String>) -> Self {
        let mut ends = Self::default();
        for name in names {
            let part = name.rsplit('/').next().unwrap_or(name).as_bytes();
            match part.last_chunk() {
                Some(last) if !last.contains(&b'*') => drop(ends.last.insert(*last)),
                _ => ends.first.push(part.split(|byte| *byte == b'*').next().unwrap_or_default().to_vec()),
            }
        }
        ends
    }

    /// Whether a path may fit one of them.
    pub(super) fn may_fit(&self, path: &[u8]) -> bool {
        let part = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        part.last_chunk().is_some_and(|last| self.last.contains(last))
            || self.first.iter().any(|first| part.starts_with(first))
    }
}

/// Names of variables that hold a secret, in capital letters: a name is split into words.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct SecretVariables {
    /// Parts of a word.
    pub(super) words: Vec<String>,
    /// Ends of a word.
    pub(super) endings: Vec<String>,
    /// Whole words.
    pub(super) whole: Vec<String>,
    /// The last word.
    pub(super) last: Vec<String>,
    /// A word beside others.
    pub(super) not_alone: Vec<String>,
    /// Words that make one of `keys` after them a secret.
    pub(super) kinds_of_key: Vec<String>,
    pub(super) keys: Vec<String>,
    /// Last words of names that are about a secret, and hold none.
    pub(super) about: Vec<String>,
}

/// The shape of a token.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Token {
    pub(super) what: String,
    prefix: String,
    /// As in a bracket expression: `A-Za-z0-9_-`.
    alphabet: String,
    /// Characters of the alphabet that follow the prefix.
    min: usize,
    max: usize,
}

/// Private keys, by their bytes.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct PrivateKeys {
    /// What stands after `-----BEGIN `.
    pub(super) labels: Vec<String>,
    /// Names of files that are searched for one; any other file has to begin with a block like that.
    pub(super) inside: Vec<String>,
    pub(super) starts: Vec<Start>,
    /// Names of files that may hold a key in DER.
    pub(super) der: Vec<String>,
}

/// A private key that is public.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PublicKey {
    /// Where it is from, for people.
    #[serde(rename = "file")]
    _file: String,
    pub(super) sha256: Digest,
}

/// How a file begins.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Start {
    pub(super) what: String,
    pub(super) text: String,
}

/// A kind of file that is known by its name.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileRule {
    pub(super) what: String,
    /// The last one or two parts of a path; a `*` stands for anything in one part.
    pub(super) names: Vec<String>,
    #[serde(default)]
    pub(super) except: Vec<String>,
    /// A text that has to be in it; looked for before the expression is.
    #[serde(default)]
    pub(super) contains: Option<String>,
    /// An expression that has to be found in it; without one, any byte does.
    #[serde(default, deserialize_with = "expression")]
    pub(super) content: Option<Regex>,
}

fn no_byte() -> [bool; 256] {
    [false; 256]
}

fn expression<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Regex>, D::Error> {
    let text = Option::<String>::deserialize(from)?;
    text.map(|text| Regex::new(&text)).transpose().map_err(serde::de::Error::custom)
}

/// The table. It is a part of the program, and a test reads it.
pub(super) fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| {
        let mut table: Table = serde_json::from_str(include_str!("patterns.json")).expect("a test reads it");
        for token in &table.tokens {
            table.token_starts[usize::from(token.prefix.as_bytes()[0])] = true;
        }
        table.ends = NameEnds::of(table.files.iter().flat_map(|rule| &rule.names));
        table
    })
}

impl Token {
    /// Whether a text begins with such a token, and not with a word that only looks like one: tokens are random, and what
    /// documents show has few different characters, or says that it is an example.
    pub(super) fn fits(&self, text: &[u8]) -> bool {
        let Some(rest) = text.strip_prefix(self.prefix.as_bytes()) else { return false };
        let length = rest.iter().take_while(|byte| self.allows(**byte)).count();
        if !(self.min..=self.max).contains(&length) {
            return false;
        }
        if rest.get(length).is_some_and(u8::is_ascii_alphanumeric) {
            return false;
        }
        let mut seen = [false; 256];
        rest[..length].iter().for_each(|byte| seen[usize::from(*byte)] = true);
        let is_random = seen.iter().filter(|seen| **seen).count() >= 10;
        let small = rest[..length].to_ascii_lowercase();
        let has = |word: &[u8]| small.windows(word.len()).any(|part| part == word);
        is_random && !has(b"example") && !has(b"xxxx") && !has(b"abcdefgh") && !has(b"12345678")
    }

    fn allows(&self, byte: u8) -> bool {
        let mut rest = self.alphabet.as_bytes();
        loop {
            rest = match rest {
                [] => return false,
                [first, b'-', last, ..] if (*first..=*last).contains(&byte) => return true,
                [_, b'-', _, rest @ ..] => rest,
                [one, ..] if *one == byte => return true,
                [_, rest @ ..] => rest,
            };
        }
    }
}

/// Whether the end of a path is like this name of the table. A `*` stands for one character at least.
pub(super) fn fits_name(path: &[u8], name: &str) -> bool {
    let mut parts = path.rsplit(|byte| *byte == b'/');
    // As many parts as the name has: `etc/shadow` is not `shadow`.
    name.rsplit('/').all(|name| {
        parts.next().is_some_and(|part| match name.split_once('*') {
            None => part == name.as_bytes(),
            Some((first, last)) => {
                part.len() > first.len() + last.len()
                    && part.starts_with(first.as_bytes())
                    && part.ends_with(last.as_bytes())
            }
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_can_be_read() {
        let table = table();
        assert!(table.files.iter().all(|rule| !rule.names.is_empty()));
        // One `*` in one part is what `fits_name` knows.
        let all = table.files.iter().flat_map(|rule| rule.names.iter().chain(&rule.except));
        let all = all.chain(&table.private_keys.inside).chain(&table.private_keys.der);
        for name in all {
            assert!(name.split('/').all(|part| part.matches('*').count() <= 1), "{name}");
        }
        for token in &table.tokens {
            assert!(token.min <= token.max && !token.prefix.is_empty(), "{token:?}");
            assert!(token.min >= 16, "short ones are words: {token:?}");
        }
    }

    #[test]
    fn no_name_of_the_table_is_passed_over() {
        let table = table();
        for name in table.files.iter().flat_map(|rule| &rule.names) {
            for middle in ["x", "some.thing"] {
                let path = format!("srv/{}", name.replace('*', middle));
                assert!(fits_name(path.as_bytes(), name) && table.ends.may_fit(path.as_bytes()), "{path}");
            }
        }
        assert!(!["lib/libz.so", "share/doc/README", "a"].iter().any(|path| table.ends.may_fit(path.as_bytes())));
    }

    #[test]
    fn names_are_the_end_of_a_path() {
        for (path, name) in [
            ("app/.env", ".env"),
            (".env", ".env"),
            ("app/.env.local", ".env.*"),
            ("etc/shadow", "etc/shadow"),
            ("nix/store/x/etc/shadow", "etc/shadow"),
            ("a/tls.key", "*.key"),
            ("etc/ssh/ssh_host_rsa_key", "ssh_host_*_key"),
        ] {
            assert!(fits_name(path.as_bytes(), name), "{path} {name}");
        }
        for (path, name) in [
            ("app/my.env", ".env"),
            ("app/.env", ".env.*"),
            ("shadow", "etc/shadow"),
            ("xetc/shadow", "etc/shadow"),
            ("a/.key", "*.key"),
            ("a.key/b", "*.key"),
            ("ssh_host__key", "ssh_host_*_key"),
        ] {
            assert!(!fits_name(path.as_bytes(), name), "{path} {name}");
        }
    }
}
