//! What the strictest program that reads images accepts of a config, a manifest and an index.
//!
//! Podman, Docker and containerd are written in Go. Each decodes these documents into types of its own, and one value of
//! another type makes it fail: while Podman has *one* image with such a config, `podman images` fails for every image and
//! every user of the host. So a document is compared with all of these types at once: `Image`, `Manifest`, `Index` and
//! `Descriptor` of the OCI image-spec 1.1, `Schema2`, `Schema2Image` and `Schema2Config` of containers/image.
//!
//! What Go's `encoding/json` does is kept: keys are compared without regard to case, every one of several equal keys is
//! decoded, `null` fits every type, unknown keys are passed over, and a time is read as it is written, escapes included.

mod schema;
mod time;

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use self::schema::Type;
pub use self::time::is_time;
use crate::class::{Class, Classified};

/// What a document is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DocumentKind {
    /// The config of an image.
    Config,
    /// The manifest of an image.
    Manifest,
    /// An index of manifests.
    Index,
}

impl DocumentKind {
    const fn word(self) -> &'static str {
        match self {
            Self::Config => "config",
            Self::Manifest => "manifest",
            Self::Index => "index",
        }
    }
}

/// A value that one of the readers refuses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its {} {what}", document.word())]
pub struct Refused {
    /// The document that has it.
    pub(crate) document: DocumentKind,
    what: String,
}

impl Classified for Refused {
    fn class(&self) -> Class {
        Class::Failed
    }
}

/// Checks a document.
///
/// # Errors
/// With the first field that does not fit, and its value.
pub fn check(document: DocumentKind, bytes: &[u8]) -> Result<(), Refused> {
    let refused = |what: String| Refused { document, what };
    let text = std::str::from_utf8(bytes).map_err(|_| refused("is not UTF-8".to_owned()))?;
    let root: &RawValue = serde_json::from_str(text).map_err(|error| refused(format!("is not JSON: {error}")))?;
    if !root.get().starts_with('{') {
        return Err(refused(format!("is {}, and must be an object", shown(root.get()))));
    }
    let (fields, others): (_, &[&str]) = match document {
        DocumentKind::Config => (schema::CONFIG, &[]),
        DocumentKind::Manifest => (schema::MANIFEST, &["manifests", "fsLayers", "history"]),
        DocumentKind::Index => (schema::INDEX, &["config", "layers", "fsLayers", "history"]),
    };
    object(root, fields).map_err(|misfit| refused(misfit.told()))?;
    // What has the fields of two kinds of documents would be read as either.
    let members = members(root).map_err(|error| refused(error.to_string()))?;
    let other =
        members.iter().find(|(key, value)| value.get() != "null" && others.iter().any(|name| is_key(key, name)));
    match other {
        Some((key, _)) => Err(refused(format!("has '{}', which belongs to another kind of document", shown(key)))),
        None => Ok(()),
    }
}

/// Checks the manifest of an image, its config, and what the manifest calls the two and the layers.
///
/// # Errors
/// See [`check`].
pub fn check_image(manifest: &[u8], config: &[u8]) -> Result<(), Refused> {
    check(DocumentKind::Manifest, manifest)?;
    check(DocumentKind::Config, config)?;
    let refused = |what: String| Refused { document: DocumentKind::Manifest, what };
    let types: Types = serde_json::from_slice(manifest).map_err(|error| refused(format!("is not one: {error}")))?;
    types.check().map_err(refused)
}

/// The media types of a manifest.
#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct Types {
    media_type: Option<String>,
    config: TypedDescriptor,
    #[serde(default)]
    layers: Option<Vec<TypedDescriptor>>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct TypedDescriptor {
    #[serde(default)]
    media_type: Option<String>,
}

impl Types {
    /// As containers/image reads them: `GuessMIMEType`, `Schema2FromManifest` and `Inspect`.
    fn check(&self) -> Result<(), String> {
        const OCI: &str = "application/vnd.oci.image.manifest.v1+json";
        const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
        const DOCKERS: &str = "application/vnd.docker.distribution.manifest.v2+json";
        const LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
        const FOREIGN: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";
        let config = self.config.media_type.as_deref().unwrap_or_default();
        // Without a type the config's decides, and one of Docker's must have it.
        let own = match self.media_type.as_deref().unwrap_or_default() {
            "" if config == OCI_CONFIG => OCI,
            own => own,
        };
        if own != OCI && own != DOCKERS {
            return Err(format!("has mediaType = \"{}\", and that must be {OCI} or {DOCKERS}", shown(own)));
        }
        if own == OCI && config != OCI_CONFIG {
            return Err(format!("has config.mediaType = \"{}\", and that must be {OCI_CONFIG}", shown(config)));
        }
        let is_dockers = |layer: &str, base| layer == base || layer.strip_prefix(base) == Some(".gzip");
        for (n, layer) in self.layers.iter().flatten().enumerate() {
            let layer = layer.media_type.as_deref().unwrap_or_default();
            let reads = match own {
                DOCKERS => is_dockers(layer, LAYER) || is_dockers(layer, FOREIGN),
                _ => is_dockers(layer, LAYER) || !layer.starts_with(LAYER),
            };
            if !reads {
                return Err(format!("is of type {own}, and has layers[{n}].mediaType = \"{}\"", shown(layer)));
            }
        }
        Ok(())
    }
}

/// A value that does not fit.
struct Misfit {
    /// Where it is, the innermost part first.
    path: Vec<String>,
    what: String,
}

impl Misfit {
    const fn new(what: String) -> Self {
        Self { path: Vec::new(), what }
    }

    /// A text in which an escape stands for nothing.
    fn no_json(error: &serde_json::Error) -> Self {
        Self::new(format!(", which is not JSON: {error}"))
    }

    /// The same of what it is in.
    fn below(mut self, part: String) -> Self {
        self.path.push(part);
        self
    }

    /// `has config.Healthcheck.Test[0] = 1, and that must be a string`
    fn told(&self) -> String {
        let mut place = String::new();
        for part in self.path.iter().rev() {
            if !place.is_empty() && !part.starts_with('[') {
                place.push('.');
            }
            place.push_str(part);
        }
        if place.is_empty() { self.what.replacen(", which ", "", 1) } else { format!("has {place}{}", self.what) }
    }
}

/// Checks one value.
fn value(raw: &RawValue, kind: &Type) -> Result<(), Misfit> {
    let text = raw.get();
    if text == "null" {
        return Ok(());
    }
    let wrong = |expected: &str| Err(Misfit::new(format!(" = {}, and {expected}", shown(text))));
    let is_string = text.starts_with('"');
    match kind {
        Type::String if is_string => Ok(()),
        Type::String => wrong("that must be a string"),
        Type::Bool if matches!(text, "true" | "false") => Ok(()),
        Type::Bool => wrong("that must be true or false"),
        // No fraction and no exponent, even where the number is a whole one.
        Type::Int if text.parse::<i64>().is_ok() => Ok(()),
        Type::Int => wrong("that must be a whole number of 64 bits, written in digits"),
        Type::Time if is_string && is_time(&text[1..text.len() - 1]) => Ok(()),
        Type::Time => wrong("that must be a time as RFC 3339 writes it, like 2024-05-01T10:00:00Z"),
        Type::Bytes if is_string && is_base64(text) => Ok(()),
        Type::Bytes => wrong("that must be base64"),
        Type::List(kind) => {
            if !text.starts_with('[') {
                return wrong("that must be a list");
            }
            let list: Vec<&RawValue> = serde_json::from_str(text).map_err(|error| Misfit::no_json(&error))?;
            let mut list = list.into_iter().enumerate();
            list.try_for_each(|(n, one)| value(one, kind).map_err(|misfit| misfit.below(format!("[{n}]"))))
        }
        Type::Map(_) | Type::Object(_) if !text.starts_with('{') => wrong("that must be an object"),
        Type::Map(kind) => {
            let mut members = members(raw).map_err(|error| Misfit::no_json(&error))?.into_iter();
            members.try_for_each(|(key, one)| value(one, kind).map_err(|misfit| misfit.below(shown(&key))))
        }
        Type::Object(fields) => object(raw, fields),
    }
}

fn object(raw: &RawValue, fields: &[(&str, Type)]) -> Result<(), Misfit> {
    for (key, one) in members(raw).map_err(|error| Misfit::no_json(&error))? {
        if let Some((_, kind)) = fields.iter().find(|(name, _)| is_key(&key, name)) {
            value(one, kind).map_err(|misfit| misfit.below(shown(&key)))?;
        }
    }
    Ok(())
}

/// Whether Go takes a key for the field of this name: but for case, as Unicode folds it.
fn is_key(key: &str, name: &str) -> bool {
    let fold = |c: char| match c {
        'ſ' => 's',
        '\u{212a}' => 'k',
        c => c.to_ascii_lowercase(),
    };
    key.chars().map(fold).eq(name.chars().map(fold))
}

fn is_base64(text: &str) -> bool {
    use base64::Engine;
    let text: Option<String> = serde_json::from_str(text).ok();
    text.is_some_and(|text| {
        let text: Vec<u8> = text.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
        base64::engine::general_purpose::STANDARD.decode(text).is_ok()
    })
}

/// A text of the document for a terminal: short, and without what would change how the rest is shown.
fn shown(text: &str) -> String {
    const LONGEST: usize = 80;
    let is_odd = |c: char| {
        c.is_control()
            || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    let mut shown = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == LONGEST {
            shown.push('…');
            break;
        }
        if is_odd(c) { shown.extend(c.escape_unicode()) } else { shown.push(c) }
    }
    shown
}

type Members<'a> = Vec<(Cow<'a, str>, &'a RawValue)>;

/// The members of an object in their order, each as often as it is there.
fn members(raw: &RawValue) -> Result<Members<'_>, serde_json::Error> {
    struct Pairs<'a>(Members<'a>);
    struct Collect;
    impl<'de> Visitor<'de> for Collect {
        type Value = Pairs<'de>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }
        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut pairs = Vec::new();
            while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
                pairs.push((Cow::Owned(key), value));
            }
            Ok(Pairs(pairs))
        }
    }
    impl<'de> Deserialize<'de> for Pairs<'de> {
        fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            from.deserialize_map(Collect)
        }
    }
    Ok(serde_json::from_str::<Pairs<'_>>(raw.get())?.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(document: DocumentKind, text: &str) -> String {
        check(document, text.as_bytes()).err().map(|error| error.to_string()).unwrap_or_default()
    }

    #[test]
    fn the_field_and_its_value_are_named() {
        for (text, said) in [
            (
                r#"{"history":[{},{"created":""}]}"#,
                r#"its config has history[1].created = "", and that must be a time as RFC 3339 writes it, like 2024-05-01T10:00:00Z"#,
            ),
            (
                r#"{"config":{"Healthcheck":{"Test":"true"}}}"#,
                r#"its config has config.Healthcheck.Test = "true", and that must be a list"#,
            ),
            (r#"{"config":{"Labels":{"a":1}}}"#, "its config has config.Labels.a = 1, and that must be a string"),
            (
                "{\"config\":{\"Labels\":{\"\u{202e}\":1}}}",
                "its config has config.Labels.\\u{202e} = 1, and that must be a string",
            ),
            ("[]", "its config is [], and must be an object"),
            (
                r#"{"config":{"Labels":{"\ud800":""}}}"#,
                "its config has config.Labels, which is not JSON: unexpected end of hex escape at line 1 column 9",
            ),
            ("{} {}", "its config is not JSON: trailing characters at line 1 column 4"),
        ] {
            assert_eq!(refused(DocumentKind::Config, text), said);
        }
        let long = format!(r#"{{"os":["{}"]}}"#, "x".repeat(1000));
        assert!(refused(DocumentKind::Config, &long).len() < 200);
        let both = r#"{"config":{},"layers":[],"Manifests":[]}"#;
        let said = "its manifest has 'Manifests', which belongs to another kind of document";
        assert_eq!(refused(DocumentKind::Manifest, both), said);
    }
}
