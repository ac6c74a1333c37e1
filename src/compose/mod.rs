//! Compose files, to and from container descriptions.
//!
//! [`export`](mod@export) writes a compose file for a stack, for people without NixOS. [`import`](mod@import) turns a
//! compose file into a NixOS configuration and says of every key of the file what became of it:
//!
//! ```text
//! yaml ──► variables ──► one module for each kind of key ──► nix
//!  tree     when read     take or leave, with the reason      text
//!                                     └──► account            what became of every key
//! ```

pub mod account;
mod context;
mod convert;
pub mod export;
mod extends;
pub mod import;
pub mod known;
mod network;
pub mod nix;
mod options;
mod resources;
mod runtime;
pub mod secrets;
mod storage;
mod top;
pub mod variables;
mod write;
pub mod yaml;

/// Splits an image reference: its name, and its tag without the digest, `None` where a digest or nothing names it.
#[must_use]
pub fn image_name(image: &str) -> (&str, Option<&str>) {
    let image = image.split_once('@').map_or(image, |(image, _)| image);
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (image, None),
    }
}

/// Whether a reference can name another image tomorrow: no digest, and a tag without a version.
#[must_use]
pub fn is_floating(image: &str) -> bool {
    let versioned = |tag: &str| tag.bytes().any(|byte| byte.is_ascii_digit());
    !image.contains("@sha256:") && !image_name(image).1.is_some_and(versioned)
}

/// The words of a command, as a shell splits them; `None` if a quote does not end.
#[must_use]
pub fn words(text: &str) -> Option<Vec<String>> {
    // In a compose file `#` begins no comment; this character is in no text.
    const HASH: &str = "\u{fdd0}";
    let words = shlex::split(&text.replace('#', HASH))?;
    Some(words.into_iter().map(|word| word.replace(HASH, "#")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_are_split_and_floating_ones_found() {
        for (image, floats) in [
            ("a", true),
            ("a:latest", true),
            ("ghcr.io/x/y:server", true),
            ("host:5000/a", true),
            ("a:1.2", false),
            ("a:pg17", false),
            ("a@sha256:00", false),
            ("host:5000/a:v1", false),
        ] {
            assert_eq!(is_floating(image), floats, "{image}");
        }
        assert_eq!(image_name("host:5000/a"), ("host:5000/a", None));
        assert_eq!(image_name("a:1@sha256:00"), ("a", Some("1")));
    }

    #[test]
    fn commands_are_split() {
        let split = |text: &str| words(text).map(|words| words.join("|"));
        assert_eq!(split("a 'b c' \"d e\" f\\ g # h").as_deref(), Some("a|b c|d e|f g|#|h"));
        assert_eq!(split("a 'b"), None);
    }
}
