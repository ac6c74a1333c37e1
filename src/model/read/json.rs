//! JSON from a file that cannot be trusted: read as a stream, with a limit on each text, and no tree of it in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Seek};

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::cursor::{FileCursor, HeaderError};

/// Bytes between two quotes.
const MAX_TEXT: u64 = 1 << 20;
/// How deep values are looked for.
const MAX_DEPTH: usize = 3;
/// How many items of a list are looked at.
const MAX_ITEMS: usize = 8;

/// Reads one JSON value of `length` bytes, and nothing but space after it.
///
/// # Errors
/// If it is not JSON, holds a text of more than 1 MiB, or is not what `seed` wants.
pub(crate) fn read<'de, R: Read + Seek, S: DeserializeSeed<'de>>(
    cursor: &mut FileCursor<R>,
    length: u64,
    what: &str,
    seed: S,
) -> Result<S::Value, HeaderError> {
    read_as(cursor, (length, what), None, seed).map(|(value, _)| value)
}

/// The same of a file that Python may have written: with `Infinity` and `NaN`, which JSON does not have and which are read as 0,
/// or with a byte order mark at its beginning. It says what of that there was.
///
/// # Errors
/// As [`read`].
pub(crate) fn read_python<'de, R: Read + Seek, S: DeserializeSeed<'de>>(
    cursor: &mut FileCursor<R>,
    length: u64,
    what: &str,
    seed: S,
) -> Result<(S::Value, Odd), HeaderError> {
    read_as(cursor, (length, what), Some(Odd::default()), seed)
}

/// What a file has that is no JSON, and that some programs read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Odd {
    /// `Infinity`, `-Infinity` or `NaN`.
    pub(crate) numbers: bool,
    /// U+FEFF at the beginning.
    pub(crate) mark: bool,
}

fn read_as<'de, R: Read + Seek, S: DeserializeSeed<'de>>(
    cursor: &mut FileCursor<R>,
    (length, what): (u64, &str),
    python: Option<Odd>,
    seed: S,
) -> Result<(S::Value, Odd), HeaderError> {
    cursor.need(length, format_args!("{what}"))?;
    let start = cursor.position();
    let word = Vec::new();
    let mut guard = Guard {
        cursor,
        left: length,
        quoted: false,
        escaped: false,
        run: 0,
        lines: 1,
        line: start,
        failed: None,
        start,
        python,
        word,
    };
    let value = {
        let mut from = serde_json::Deserializer::from_reader(&mut guard);
        seed.deserialize(&mut from).and_then(|value| from.end().map(|()| value))
    };
    let odd = guard.python.unwrap_or_default();
    value.map(|value| (value, odd)).map_err(|error| {
        if let Some(failed) = guard.failed.take() {
            return failed;
        }
        let read = guard.cursor.position();
        // An error in the previous line means almost nothing has been read since.
        let at = if error.line() == guard.lines { guard.line + error.column() as u64 } else { read };
        // The parser has read the byte that it stumbled over, but for the end.
        let at = if error.is_eof() { at } else { at.saturating_sub(1) };
        let message = error.to_string();
        let message = message.split(" at line ").next().unwrap_or_default();
        HeaderError::invalid(at.clamp(start, read), format!("{what}: {message}"))
    })
}

/// Gives the parser one byte at a time, so that its place is known, and stops it in a text that is too long.
struct Guard<'a, R> {
    cursor: &'a mut FileCursor<R>,
    left: u64,
    quoted: bool,
    escaped: bool,
    /// Bytes since the quote.
    run: u64,
    /// The number of the line, and where it begins.
    lines: usize,
    line: u64,
    failed: Option<HeaderError>,
    /// Where the value begins.
    start: u64,
    /// What was found that only Python writes; `None` where that is not read.
    python: Option<Odd>,
    /// The letters so far of what may be `Infinity` or `NaN`.
    word: Vec<u8>,
}

impl<R: Read + Seek> Guard<'_, R> {
    /// What the parser gets for a byte outside of texts: a number for a word that stands for one, and space for a mark.
    fn translated(&mut self, byte: u8) -> Result<u8, HeaderError> {
        const MARK: [u8; 3] = [0xef, 0xbb, 0xbf];
        let Some(odd) = &mut self.python else { return Ok(byte) };
        let at = self.cursor.position() - 1;
        if usize::try_from(at - self.start).is_ok_and(|n| MARK.get(n) == Some(&byte)) {
            odd.mark = true;
            return Ok(b' ');
        }
        if self.word.is_empty() && matches!(byte, b'I' | b'N') {
            self.word.push(byte);
            return Ok(b'0');
        }
        if self.word.is_empty() {
            return Ok(byte);
        }
        if byte.is_ascii_alphanumeric() && self.word.len() < 16 {
            self.word.push(byte);
            return Ok(b' ');
        }
        if !matches!(self.word.as_slice(), b"Infinity" | b"NaN") {
            let word = String::from_utf8_lossy(&self.word);
            return Err(HeaderError::invalid(at - self.word.len() as u64, format!("'{word}' is not a value of JSON")));
        }
        odd.numbers = true;
        self.word.clear();
        Ok(byte)
    }

    fn byte(&mut self) -> Result<u8, HeaderError> {
        let byte = self.cursor.u8(format_args!("its JSON"))?;
        self.left -= 1;
        let byte = if self.quoted { byte } else { self.translated(byte)? };
        self.run = if self.quoted { self.run + 1 } else { 0 };
        if self.run > MAX_TEXT {
            let message = format!("a text of more than {MAX_TEXT} bytes");
            return Err(HeaderError::invalid(self.cursor.position() - 1, message));
        }
        if byte == b'\n' {
            self.lines += 1;
            self.line = self.cursor.position();
        }
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.quoted => self.escaped = true,
            b'"' => self.quoted = !self.quoted,
            _ => {}
        }
        Ok(byte)
    }
}

impl<R: Read + Seek> Read for Guard<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(first) = buffer.first_mut().filter(|_| self.left > 0) else { return Ok(0) };
        match self.byte() {
            Ok(byte) => {
                *first = byte;
                Ok(1)
            }
            Err(error) => {
                let told = io::Error::other(error.to_string());
                // The parser may ask again on its way out.
                self.failed.get_or_insert(error);
                Err(told)
            }
        }
    }
}

/// A value that is not a list and no mapping.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Scalar {
    /// A whole number that is not negative.
    Number(u64),
    /// Text.
    Text(String),
}

/// The numbers and texts at the paths that `wanted` names: `text_config.hidden_size`, `architectures.0`. Whatever is
/// elsewhere, or of another kind, is gone over.
#[derive(Debug)]
pub(crate) struct Pick<F>(pub(crate) F);

impl<'de, F: Fn(&str) -> bool> DeserializeSeed<'de> for Pick<F> {
    type Value = BTreeMap<String, Scalar>;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        let mut found = BTreeMap::new();
        from.deserialize_any(JsonNode { wanted: &self.0, path: String::new(), depth: 0, found: &mut found })?;
        Ok(found)
    }
}

struct JsonNode<'a, F> {
    wanted: &'a F,
    path: String,
    depth: usize,
    found: &'a mut BTreeMap<String, Scalar>,
}

impl<F: Fn(&str) -> bool> JsonNode<'_, F> {
    fn keep(self, scalar: Scalar) {
        if (self.wanted)(&self.path) {
            self.found.insert(self.path, scalar);
        }
    }

    fn below(&mut self, key: &str) -> JsonNode<'_, F> {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        JsonNode { wanted: self.wanted, path, depth: self.depth + 1, found: self.found }
    }
}

impl<'de, F: Fn(&str) -> bool> DeserializeSeed<'de> for JsonNode<'_, F> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        if self.depth > MAX_DEPTH {
            return from.deserialize_ignored_any(IgnoredAny).map(drop);
        }
        from.deserialize_any(self)
    }
}

impl<'de, F: Fn(&str) -> bool> Visitor<'de> for JsonNode<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, number: u64) -> Result<(), E> {
        self.keep(Scalar::Number(number));
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.keep(Scalar::Text(text.to_owned()));
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut items: A) -> Result<(), A::Error> {
        let mut number = 0;
        while number < MAX_ITEMS && items.next_element_seed(self.below(&number.to_string()))?.is_some() {
            number += 1;
        }
        while items.next_element::<IgnoredAny>()?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut entries: A) -> Result<(), A::Error> {
        while let Some(key) = entries.next_key::<String>()? {
            entries.next_value_seed(self.below(&key))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pick(json: &str) -> Result<BTreeMap<String, Scalar>, HeaderError> {
        let mut cursor = FileCursor::new(io::Cursor::new(json.as_bytes())).unwrap();
        read(&mut cursor, json.len() as u64, "config.json", Pick(|path: &str| path.ends_with('x')))
    }

    #[test]
    fn values_are_picked_wherever_they_are() {
        let json = r#"{"x": 1, "a": {"x": "text", "y": 2, "b": {"c": {"x": 9}}}, "l": [{"x": 3}, 4], "bx": null, "nx": -1, "fx": 1.5}"#;
        let found = pick(json).unwrap();
        let found: Vec<_> = found.iter().map(|(path, value)| (path.as_str(), value.clone())).collect();
        assert_eq!(
            found,
            [("a.x", Scalar::Text("text".to_owned())), ("l.0.x", Scalar::Number(3)), ("x", Scalar::Number(1))]
        );
    }

    #[test]
    fn what_is_no_json_says_where() {
        for (json, offset, message) in [
            (r#"{"a": tru}"#, 9, "config.json: expected ident"),
            (r#"{"a": 1"#, 7, "config.json: EOF while parsing an object"),
            (r#"{"a": 1} x"#, 9, "config.json: trailing characters"),
            ("{\n\"a\": 1,\n}\n", 10, "config.json: trailing comma"),
            ("", 0, "config.json: EOF while parsing a value"),
        ] {
            let error = pick(json).unwrap_err();
            assert_eq!(error.offset(), offset, "{json}: {error}");
            assert!(error.to_string().starts_with(&format!("byte {offset}: {message}; ")), "{error}");
        }
    }

    #[test]
    fn what_python_writes_is_read_where_it_may_be() {
        let python = |json: &[u8]| {
            let mut cursor = FileCursor::new(io::Cursor::new(json)).unwrap();
            read_python(&mut cursor, json.len() as u64, "config.json", Pick(|path: &str| path.ends_with('x')))
        };
        let json = br#"{"ax": [1, -Infinity, NaN], "a": Infinity, "x": 7, "tx": "NaN"}"#;
        let (found, odd) = python(json).unwrap();
        assert_eq!((found["x"].clone(), found["tx"].clone()), (Scalar::Number(7), Scalar::Text("NaN".to_owned())));
        assert_eq!(odd, Odd { numbers: true, mark: false });
        assert_eq!(python(b"\xef\xbb\xbf{\"x\": 1}").unwrap().1, Odd { numbers: false, mark: true });
        assert_eq!(python(b"{}").unwrap().1, Odd::default());
        for wrong in [&br#"{"x": Nan}"#[..], br#"{"x": Infinite}"#, br#"{"x": NaN NaN}"#, b"{} \xef\xbb\xbf"] {
            assert!(python(wrong).is_err(), "{}", String::from_utf8_lossy(wrong));
        }
        // Elsewhere none of it is read.
        assert!(pick(r#"{"x": NaN}"#).is_err() && pick("\u{feff}{}").is_err());
    }

    #[test]
    fn depth_and_texts_have_a_limit() {
        assert!(pick(&"[".repeat(1 << 20)).unwrap_err().to_string().contains("EOF while parsing a list"));
        let error = pick(&format!(r#"{{"a": "\"{}"}}"#, "b".repeat(1 << 20))).unwrap_err();
        assert_eq!(error.offset(), 7 + MAX_TEXT, "{error}");
        pick(&format!(r#"{{"a": "{}"}}"#, "b".repeat(1 << 19))).unwrap();
    }
}
