//! Values that are clearly no secret. A file of variables (`.env`) is where people keep secrets under any name, so a value of one is
//! taken for one unless it is of these kinds.

use std::collections::BTreeSet;
use std::sync::OnceLock;

use regex::Regex;

/// Words that settings have, in small letters.
const WORDS: [&str; 47] = [
    "",
    "true",
    "false",
    "yes",
    "no",
    "on",
    "off",
    "y",
    "n",
    "null",
    "none",
    "auto",
    "default",
    "always",
    "never",
    "unless-stopped",
    "on-failure",
    "debug",
    "info",
    "notice",
    "warn",
    "warning",
    "error",
    "trace",
    "verbose",
    "json",
    "text",
    "production",
    "prod",
    "development",
    "dev",
    "staging",
    "test",
    "local",
    "localhost",
    "host",
    "bridge",
    "http",
    "https",
    "tcp",
    "udp",
    "utf-8",
    "utf8",
    "c.utf-8",
    "en_us.utf-8",
    "all",
    "cpu",
];

/// Letters and digits without a break from which a text looks as if it was drawn by lot.
const RANDOM: usize = 16;

/// Whether a value is clearly no secret: a switch, a number, a port, a size, a version, a path, an address without a user in it, or
/// one of `names` (services, containers, the project); or a list of such with commas.
#[must_use]
pub(crate) fn is_harmless(value: &str, names: &BTreeSet<String>) -> bool {
    let value = value.trim();
    value.len() <= 1024 && value.split(',').all(|part| is_one(part.trim(), names))
}

fn is_one(value: &str, names: &BTreeSet<String>) -> bool {
    static SHAPES: OnceLock<Regex> = OnceLock::new();
    // A number or a port; a size or a time; a version, also as a tag; an IPv4 address or a network; a host name with dots; a time zone.
    let shapes = SHAPES.get_or_init(|| {
        let parts = [
            r"[-+]?\d{1,5}(-\d{1,5})?",
            r"\d{1,5}(\.\d{1,3})?\s?([kmgt]i?b?|b|ms|s|m|h|d|%)",
            r"v?\d{1,4}(\.\d{1,5}){1,3}([-.+][a-z][a-z0-9.]{0,11}|-\d{1,3})?",
            r"(\d{1,3}\.){3}\d{1,3}(/\d{1,2})?(:\d{1,5})?",
            r"(?-i:[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,30}[a-z0-9])?)*\.[a-z]{2,12}(:\d{1,5})?)",
            r"(?-i:(Africa|America|Asia|Atlantic|Australia|Europe|Etc|Indian|Pacific|UTC|GMT)(/[A-Za-z_/+-]{1,30})?)",
        ];
        Regex::new(&format!("^(?i:{})$", parts.join("|"))).expect("it is written here")
    });
    WORDS.contains(&value.to_ascii_lowercase().as_str())
        || names.contains(value)
        || value.rsplit_once(':').is_some_and(|(name, port)| {
            names.contains(name)
                && !port.is_empty()
                && port.len() <= 5
                && port.bytes().all(|byte| byte.is_ascii_digit())
        })
        || shapes.is_match(value) && !looks_random(value)
        || is_path(value)
        || is_address(value, names)
}

fn is_path(value: &str) -> bool {
    let begins = ["/", "./", "../", "~/"].iter().any(|start| value.starts_with(start));
    let file = value.rsplit_once('.').is_some_and(|(stem, end)| {
        !stem.is_empty() && (2..=11).contains(&end.len()) && end.bytes().all(|byte| byte.is_ascii_lowercase())
    });
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@~ ".contains(c);
    (begins || file) && value.chars().all(plain) && !value.contains("@@") && !value.split('/').any(looks_random)
}

/// `scheme://host:port/path?key=value` without a user, a key or a token in it.
fn is_address(value: &str, names: &BTreeSet<String>) -> bool {
    let Some((scheme, rest)) = value.split_once("://") else { return false };
    let is_scheme =
        !scheme.is_empty() && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.:".contains(&byte));
    let (rest, query) = rest.split_once(['?', '#']).unwrap_or((rest, ""));
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-:[]~*".contains(c);
    let pair = |pair: &str| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        !super::values::is_secret(name, value) && (is_one(value, names) || value.len() < 12) && !looks_random(value)
    };
    is_scheme
        && rest.chars().all(plain)
        && !rest.split(['/', ':']).any(looks_random)
        && !rest.contains("hooks")
        && (query.is_empty() || query.split('&').all(pair))
}

/// Whether a part of a path or of an address may be a key: long, and of letters and digits without a break.
fn looks_random(part: &str) -> bool {
    part.split(['.', '-', '_', '/', ':', ' ']).any(|word| {
        let has = |is: fn(&u8) -> bool| word.as_bytes().iter().any(is);
        word.len() >= RANDOM && has(u8::is_ascii_digit) && has(u8::is_ascii_alphabetic)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_clearly_no_secret_is_harmless() {
        let names = ["db", "web-1"].map(str::to_owned).into();
        for value in [
            "",
            "8080",
            "3000-3010",
            "True",
            "off",
            "/srv/data",
            "./data",
            "~/x",
            "models/tiny.gguf",
            "tiny.Q4_K_M.gguf",
            "512m",
            "1.5GB",
            "30s",
            "1.16.2",
            "v0.5.13.5",
            "8.4.0-alpine",
            "db",
            "db:5432",
            "web-1",
            "http://web:80/api",
            "postgres://db/app?sslmode=disable",
            "10.0.0.0/8",
            "127.0.0.1:80",
            "example.com",
            "chat.example.com:443",
            "Europe/Berlin",
            "UTC",
            "debug",
            "a.example.com,/srv,8080",
            "https://example.com",
        ] {
            assert!(is_harmless(value, &names), "{value}");
        }
        for value in [
            "canary-llm",
            "hunter2",
            "admin",
            "swordfish",
            "postgres://me:x@db",
            "redis://:x@db:1",
            "http://me@db",
            "https://hooks.example.com/services/T0/B0/abc",
            "https://x.example/aB3dE5gH7jK9mN1p",
            "/aB3dE5gH7jK9mN1pQ2sT4vW6",
            "http://x/?token=abc",
            "123456",
            "4f3c2b1a",
            "sk-abc",
            "eyJhbGciOiJIUzI1NiJ9.e30.x",
            "a b",
            "db,secret",
            "correct horse",
            "-----BEGIN",
            "aGVsbG8=",
            "P@ssw0rd",
            "Secret.Word",
        ] {
            assert!(!is_harmless(value, &names), "{value}");
        }
    }
}
