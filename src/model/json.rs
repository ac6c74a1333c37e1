//! JSON from a file that nobody vouches for: read as a stream, with a limit on each text, and no tree of it in memory.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Seek};

use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::cursor::{Cursor, HeaderError};

/// Bytes between two quotes.
const MAX_TEXT: u64 = 1 << 20;
/// How deep values are looked for.
const MAX_DEPTH: usize = 3;
/// How many items of a list are looked at.
const MAX_ITEMS: usize = 8;

/// Reads one JSON value of `length` bytes, and nothing but space after it.
///
/// # Errors
/// If it is none, holds a text of more than 1 MiB, or is not what `seed` wants.
pub(super) fn read<'de, R: Read + Seek, S: DeserializeSeed<'de>>(
    cursor: &mut Cursor<R>,
    length: u64,
    what: &str,
    seed: S,
) -> Result<S::Value, HeaderError> {
    cursor.need(length, format_args!("{what}"))?;
    let start = cursor.position();
    let mut guard =
        Guard { cursor, left: length, quoted: false, escaped: false, run: 0, lines: 1, line: start, failed: None };
    let value = {
        let mut from = serde_json::Deserializer::from_reader(&mut guard);
        seed.deserialize(&mut from).and_then(|value| from.end().map(|()| value))
    };
    value.map_err(|error| {
        if let Some(failed) = guard.failed.take() {
            return failed;
        }
        let read = guard.cursor.position();
        // Of an error in a line before, as good as nothing was read since.
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
    cursor: &'a mut Cursor<R>,
    left: u64,
    quoted: bool,
    escaped: bool,
    /// Bytes since the quote.
    run: u64,
    /// The number of the line, and where it begins.
    lines: usize,
    line: u64,
    failed: Option<HeaderError>,
}

impl<R: Read + Seek> Guard<'_, R> {
    fn byte(&mut self) -> Result<u8, HeaderError> {
        let byte = self.cursor.u8(format_args!("its JSON"))?;
        self.left -= 1;
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

/// A value that is no list and no mapping.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Scalar {
    /// A whole number that is not negative.
    Number(u64),
    /// Text.
    Text(String),
}

/// The numbers and texts at the paths that `wanted` names: `text_config.hidden_size`, `architectures.0`. Whatever is
/// elsewhere, or of another kind, is gone over.
#[derive(Debug)]
pub(super) struct Pick<F>(pub(super) F);

impl<'de, F: Fn(&str) -> bool> DeserializeSeed<'de> for Pick<F> {
    type Value = BTreeMap<String, Scalar>;

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<Self::Value, D::Error> {
        let mut found = BTreeMap::new();
        from.deserialize_any(Node { wanted: &self.0, path: String::new(), depth: 0, found: &mut found })?;
        Ok(found)
    }
}

struct Node<'a, F> {
    wanted: &'a F,
    path: String,
    depth: usize,
    found: &'a mut BTreeMap<String, Scalar>,
}

impl<F: Fn(&str) -> bool> Node<'_, F> {
    fn keep(self, scalar: Scalar) {
        if (self.wanted)(&self.path) {
            self.found.insert(self.path, scalar);
        }
    }

    fn below(&mut self, key: &str) -> Node<'_, F> {
        let path = if self.path.is_empty() { key.to_owned() } else { format!("{}.{key}", self.path) };
        Node { wanted: self.wanted, path, depth: self.depth + 1, found: self.found }
    }
}

impl<'de, F: Fn(&str) -> bool> DeserializeSeed<'de> for Node<'_, F> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        if self.depth > MAX_DEPTH {
            return from.deserialize_ignored_any(IgnoredAny).map(drop);
        }
        from.deserialize_any(self)
    }
}

impl<'de, F: Fn(&str) -> bool> Visitor<'de> for Node<'_, F> {
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
        let mut cursor = Cursor::new(io::Cursor::new(json.as_bytes())).unwrap();
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
    fn depth_and_texts_have_a_limit() {
        assert!(pick(&"[".repeat(1 << 20)).unwrap_err().to_string().contains("EOF while parsing a list"));
        let error = pick(&format!(r#"{{"a": "\"{}"}}"#, "b".repeat(1 << 20))).unwrap_err();
        assert_eq!(error.offset(), 7 + MAX_TEXT, "{error}");
        pick(&format!(r#"{{"a": "{}"}}"#, "b".repeat(1 << 19))).unwrap();
    }
}
