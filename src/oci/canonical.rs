//! The only door from a value to JSON bytes.
//!
//! A digest is taken over bytes, so the same value must give the same bytes everywhere. RFC 8785 (JSON
//! Canonicalization Scheme) fixes key order, white space, numbers and escapes; `oci-spec` keeps annotations and labels
//! in hash maps, whose order differs at every run. Reproducibility: the bytes depend on the value and on nothing else.

use canon_json::CanonJsonSerialize;
use serde::Serialize;

/// Canonical JSON (RFC 8785) of a value, without a newline at the end.
///
/// # Panics
/// Never for the types of this crate: all their map keys are strings and all their numbers are integers, the two
/// things that JSON can refuse.
#[must_use]
pub fn to_bytes<T: Serialize>(value: &T) -> Vec<u8> {
    value.to_canon_json_vec().expect("a value with string keys and integer numbers is JSON")
}

/// The same as [`to_bytes`], as text.
#[must_use]
pub(crate) fn to_string<T: Serialize>(value: &T) -> String {
    String::from_utf8(to_bytes(value)).expect("JSON is UTF-8")
}

/// For files that people read: keys in canonical order, two spaces of indent, a newline at the end.
///
/// # Panics
/// As [`to_bytes`].
#[must_use]
pub fn to_pretty<T: Serialize>(value: &T) -> Vec<u8> {
    // Through the canonical bytes first: a `serde_json::Value` keeps its keys sorted.
    let sorted: serde_json::Value = serde_json::from_slice(&to_bytes(value)).expect("canonical JSON is JSON");
    let mut bytes = serde_json::to_vec_pretty(&sorted).expect("a JSON value is JSON");
    bytes.push(b'\n');
    bytes
}

/// JSON as `encoding/json` of Go writes a struct: keys in the order of its fields, no white space, and `<`, `>`, `&` and
/// two separators of lines escaped.
///
/// Podman's artifact store writes a manifest anew from its own structs and takes the digest of that; Ollama writes its
/// files so. To get their digests, write what they would write.
///
/// # Panics
/// As [`to_bytes`].
#[must_use]
pub(crate) fn to_go<T: Serialize>(value: &T) -> Vec<u8> {
    let text = serde_json::to_string(value).expect("a value with string keys and integer numbers is JSON");
    // These are characters of strings only, so that they can be replaced wherever they are.
    let escapes =
        [('<', r"\u003c"), ('>', r"\u003e"), ('&', r"\u0026"), ('\u{2028}', r"\u2028"), ('\u{2029}', r"\u2029")];
    escapes.iter().fold(text, |text, (from, to)| text.replace(*from, to)).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_sorted_and_nothing_is_escaped_that_need_not_be() {
        let value: serde_json::Value =
            serde_json::from_str(r#"{"b":"<é\u0007/>","a":[1,{"z":null,"y":true}]}"#).unwrap();
        assert_eq!(to_string(&value), r#"{"a":[1,{"y":true,"z":null}],"b":"<é\u0007/>"}"#);
    }

    #[test]
    fn go_keeps_the_order_of_fields_and_escapes_what_html_would_take() {
        #[derive(Serialize)]
        struct Of {
            stop: [&'static str; 2],
            name: &'static str,
        }
        // What Go 1.22 prints for the same struct.
        let go = r#"{"stop":["\u003c|im_end|\u003e","a\u0026b"],"name":"\u2028é\"\n"}"#;
        assert_eq!(to_go(&Of { stop: ["<|im_end|>", "a&b"], name: "\u{2028}é\"\n" }), go.as_bytes());
    }

    #[test]
    fn pretty_is_sorted_too() {
        let value: serde_json::Value = serde_json::from_str(r#"{"b":1,"a":2}"#).unwrap();
        assert_eq!(to_pretty(&value), b"{\n  \"a\": 2,\n  \"b\": 1\n}\n");
    }
}
