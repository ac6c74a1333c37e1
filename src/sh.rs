//! Words for a POSIX shell: the one place where text becomes part of a script.

/// One word of a script that the shell reads as exactly this text. A word cannot hold a NUL, which is left out.
#[must_use]
pub fn word(text: &str) -> String {
    let text = text.replace('\0', "");
    shlex::try_quote(&text).map_or_else(|_| "''".to_owned(), |word| word.into_owned())
}

/// The words of a command line.
#[must_use]
pub fn line<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    words.into_iter().map(word).collect::<Vec<_>>().join(" ")
}
