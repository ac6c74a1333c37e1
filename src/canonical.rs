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
pub fn to_string<T: Serialize>(value: &T) -> String {
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
    fn pretty_is_sorted_too() {
        let value: serde_json::Value = serde_json::from_str(r#"{"b":1,"a":2}"#).unwrap();
        assert_eq!(to_pretty(&value), b"{\n  \"a\": 2,\n  \"b\": 1\n}\n");
    }
}
