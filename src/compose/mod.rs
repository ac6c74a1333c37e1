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
pub mod images;
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
    fn commands_are_split() {
        let split = |text: &str| words(text).map(|words| words.join("|"));
        assert_eq!(split("a 'b c' \"d e\" f\\ g # h").as_deref(), Some("a|b c|d e|f g|#|h"));
        assert_eq!(split("a 'b"), None);
    }
}
