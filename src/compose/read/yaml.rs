//! YAML as compose files use it: anchors, aliases and merge keys, and the line of every key.
//!
//! The parser gives events; the tree is made here, because a file from a stranger may be small and stand for very much:
//! aliases are copied with a limit, and a circle of them is an error. Scalars stay the text they were written as, so that
//! `1.10` or `0644` is not a number on its way.

use std::collections::BTreeMap;
use std::fmt;

use granit_parser::{Event, Marker, Parser, ScalarStyle, Span, StrInput, Tag};

/// The bytes that a file may have.
pub(crate) const MAX_BYTES: usize = 8 << 20;
/// The values that a file may stand for, with every alias copied.
pub(crate) const MAX_NODES: usize = 200_000;
/// How deep values may lie in each other.
pub(crate) const MAX_DEPTH: usize = 64;

/// Where something was written; both numbers begin with 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Mark {
    /// Line.
    pub(crate) line: usize,
    /// Column, in characters.
    pub(crate) column: usize,
    /// Which of the files that were read; 0 is the first.
    pub(crate) file: usize,
}

/// What is not YAML, or not as compose files have it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct YamlError {
    pub(crate) mark: Mark,
    pub(crate) message: String,
}

/// A value and where it begins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct YamlNode {
    /// Where it begins.
    pub(crate) mark: Mark,
    /// What it is.
    pub value: YamlValue,
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum YamlValue {
    /// Text as it was written; `quoted` tells `"8080"` from `8080`, and `""` from nothing.
    Scalar {
        /// The text.
        text: String,
        /// Whether it was in quotes, or a block.
        quoted: bool,
    },
    /// A list; the keys are the numbers of its items.
    List(Vec<YamlEntry>),
    /// A mapping in the order of the file, with what `<<` brought in.
    Map(Vec<YamlEntry>),
}

/// A key with its value, or an item of a list with its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct YamlEntry {
    pub key: String,
    /// Where the key is; for an item, where the item is.
    pub(crate) mark: Mark,
    pub value: YamlNode,
}

/// A file as a tree without aliases.
#[derive(Debug, Clone)]
pub struct YamlDocument {
    /// All of it.
    pub root: YamlNode,
    /// For each top-level key: whether anything refers to an anchor in it.
    pub(crate) referred: BTreeMap<String, bool>,
}

impl YamlNode {
    /// Whether it is `null`, `~`, or nothing at all.
    #[must_use]
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.value, YamlValue::Scalar { text, quoted: false } if matches!(text.as_str(), "" | "~" | "null" | "Null" | "NULL"))
    }

    /// What it is, for messages; never its text, which may be a secret.
    #[must_use]
    pub(crate) fn kind(&self) -> &'static str {
        match &self.value {
            _ if self.is_null() => "nothing",
            YamlValue::Scalar { .. } => "a string",
            YamlValue::List(_) => "a list",
            YamlValue::Map(_) => "a mapping",
        }
    }

    /// The value of a key of a mapping.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&YamlEntry> {
        let YamlValue::Map(entries) = &self.value else { return None };
        entries.iter().find(|entry| entry.key == key)
    }
}

impl fmt::Display for Mark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A tree in which aliases are still names.
#[derive(Debug)]
struct RawYaml {
    mark: Mark,
    anchor: usize,
    value: RawValue,
}

#[derive(Debug)]
enum RawValue {
    Scalar { text: String, quoted: bool },
    List(Vec<RawYaml>),
    Map(Vec<(RawYaml, RawYaml)>),
    Alias(usize),
}

struct Reader<'a> {
    parser: Parser<'a, StrInput<'a>>,
    file: usize,
    /// How often each anchor is referred to.
    used: BTreeMap<usize, usize>,
    nodes: usize,
}

/// Reads a file with one document.
///
/// # Errors
/// See [`YamlError`].
pub fn parse(text: &str, file: usize) -> Result<YamlDocument, YamlError> {
    let start = Mark { line: 1, column: 1, file };
    if text.len() > MAX_BYTES {
        return Err(YamlError { mark: start, message: format!("is larger than {} MiB", MAX_BYTES >> 20) });
    }
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader = Reader { parser: Parser::new_from_str(text), file, used: BTreeMap::new(), nodes: 0 };
    let mut root = None;
    loop {
        let (event, span) = reader.next()?;
        match event {
            Event::StreamEnd => break,
            Event::DocumentStart(..) if root.is_some() => {
                let message = "is a second document; give one file for each".to_owned();
                return Err(YamlError { mark: mark(span.start, file), message });
            }
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
            other => root = Some(reader.node(other, span, 0)?),
        }
    }
    let root = root.ok_or(YamlError { mark: start, message: "is empty".to_owned() })?;
    let mut referred = BTreeMap::new();
    if let RawValue::Map(entries) = &root.value {
        for (key, value) in entries {
            if let RawValue::Scalar { text, .. } = &key.value {
                referred.insert(text.clone(), has_anchor(value, &reader.used));
            }
        }
    }
    let mut anchors = BTreeMap::new();
    collect(&root, &mut anchors);
    let mut expander = Expander { anchors, open: Vec::new(), nodes: 0 };
    let root = expander.expand(&root, 0)?;
    Ok(YamlDocument { root, referred })
}

fn mark(marker: Marker, file: usize) -> Mark {
    Mark { line: marker.line(), column: marker.col() + 1, file }
}

fn has_anchor(raw: &RawYaml, used: &BTreeMap<usize, usize>) -> bool {
    let inside = || match &raw.value {
        RawValue::List(items) => items.iter().any(|item| has_anchor(item, used)),
        RawValue::Map(entries) => entries.iter().any(|(_, value)| has_anchor(value, used)),
        RawValue::Scalar { .. } | RawValue::Alias(_) => false,
    };
    (raw.anchor != 0 && used.contains_key(&raw.anchor)) || inside()
}

fn collect<'a>(raw: &'a RawYaml, anchors: &mut BTreeMap<usize, &'a RawYaml>) {
    if raw.anchor != 0 {
        anchors.insert(raw.anchor, raw);
    }
    match &raw.value {
        RawValue::List(items) => items.iter().for_each(|item| collect(item, anchors)),
        RawValue::Map(entries) => entries.iter().for_each(|(key, value)| {
            collect(key, anchors);
            collect(value, anchors);
        }),
        RawValue::Scalar { .. } | RawValue::Alias(_) => {}
    }
}

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<(Event<'a>, Span), YamlError> {
        loop {
            match self.parser.next_event() {
                // Says the name of an anchor; the node that has it comes next, with its number.
                Some(Ok((Event::Anchor(..), _))) => {}
                Some(Ok(event)) => return Ok(event),
                Some(Err(error)) => {
                    let mark = mark(*error.marker(), self.file);
                    return Err(YamlError { mark, message: format!("is not YAML: {}", error.info()) });
                }
                None => return Ok((Event::StreamEnd, Span::default())),
            }
        }
    }

    fn node(&mut self, event: Event<'a>, span: Span, depth: usize) -> Result<RawYaml, YamlError> {
        let mark = mark(span.start, self.file);
        self.nodes += 1;
        check_limits(mark, depth, self.nodes)?;
        let (anchor, value) = match event {
            Event::Scalar(text, style, anchor, tag) => {
                check_tag(mark, tag.as_deref())?;
                if text.contains('\0') {
                    // Neither an argument nor a variable can have it, and Nix text ends there.
                    return Err(YamlError { mark, message: "has a NUL character in it".to_owned() });
                }
                let quoted = style != ScalarStyle::Plain;
                (anchor, RawValue::Scalar { text: text.into_owned(), quoted })
            }
            Event::Alias(anchor) => {
                *self.used.entry(anchor).or_default() += 1;
                (0, RawValue::Alias(anchor))
            }
            Event::SequenceStart(_, anchor, tag) => {
                check_tag(mark, tag.as_deref())?;
                let mut items = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => break,
                        (event, span) => items.push(self.node(event, span, depth + 1)?),
                    }
                }
                (anchor, RawValue::List(items))
            }
            Event::MappingStart(_, anchor, tag) => {
                check_tag(mark, tag.as_deref())?;
                let mut entries = Vec::new();
                loop {
                    let key = match self.next()? {
                        (Event::MappingEnd, _) => break,
                        (event, span) => self.node(event, span, depth + 1)?,
                    };
                    let (event, span) = self.next()?;
                    entries.push((key, self.node(event, span, depth + 1)?));
                }
                (anchor, RawValue::Map(entries))
            }
            _ => return Err(YamlError { mark, message: "is not YAML: it ends in the middle".to_owned() }),
        };
        Ok(RawYaml { mark, anchor, value })
    }
}

fn check_tag(mark: Mark, tag: Option<&Tag>) -> Result<(), YamlError> {
    if tag.is_some_and(Tag::is_custom) {
        let message = "has a tag: !reset and !override are for files that are put over others, which are not read";
        return Err(YamlError { mark, message: message.to_owned() });
    }
    Ok(())
}

fn check_limits(mark: Mark, depth: usize, nodes: usize) -> Result<(), YamlError> {
    if depth > MAX_DEPTH {
        return Err(YamlError { mark, message: format!("lies more than {MAX_DEPTH} levels deep") });
    }
    if nodes > MAX_NODES {
        return Err(YamlError {
            mark,
            message: format!("makes more than {MAX_NODES} values, with every alias copied"),
        });
    }
    Ok(())
}

/// Puts a copy where an alias is.
struct Expander<'a> {
    anchors: BTreeMap<usize, &'a RawYaml>,
    /// The aliases that are being copied.
    open: Vec<usize>,
    nodes: usize,
}

impl Expander<'_> {
    fn expand(&mut self, raw: &RawYaml, depth: usize) -> Result<YamlNode, YamlError> {
        self.nodes += 1;
        check_limits(raw.mark, depth, self.nodes)?;
        let value = match &raw.value {
            RawValue::Alias(anchor) => return self.alias(*anchor, raw.mark, depth),
            RawValue::Scalar { text, quoted } => YamlValue::Scalar { text: text.clone(), quoted: *quoted },
            RawValue::List(items) => {
                let mut entries = Vec::new();
                for (n, item) in items.iter().enumerate() {
                    let value = self.expand(item, depth + 1)?;
                    entries.push(YamlEntry { key: n.to_string(), mark: item.mark, value });
                }
                YamlValue::List(entries)
            }
            RawValue::Map(entries) => YamlValue::Map(self.map(entries, depth)?),
        };
        Ok(YamlNode { mark: raw.mark, value })
    }

    fn alias(&mut self, anchor: usize, mark: Mark, depth: usize) -> Result<YamlNode, YamlError> {
        if self.open.contains(&anchor) {
            return Err(YamlError { mark, message: "is an alias of something that it is itself a part of".to_owned() });
        }
        let Some(target) = self.anchors.get(&anchor).copied() else {
            return Err(YamlError { mark, message: "is an alias of an anchor that is not there".to_owned() });
        };
        self.open.push(anchor);
        let node = self.expand(target, depth);
        self.open.pop();
        // Errors are shown where the alias is: what it stands for may be used rightly elsewhere.
        node
    }

    fn map(&mut self, raw: &[(RawYaml, RawYaml)], depth: usize) -> Result<Vec<YamlEntry>, YamlError> {
        let mut entries: Vec<YamlEntry> = Vec::new();
        let mut merges: Vec<YamlEntry> = Vec::new();
        let mut lines: BTreeMap<String, usize> = BTreeMap::new();
        for (key, value) in raw {
            let node = self.expand(key, depth + 1)?;
            let YamlValue::Scalar { text, quoted } = node.value else {
                return Err(YamlError { mark: key.mark, message: "is not a key: expected a string".to_owned() });
            };
            let value = self.expand(value, depth + 1)?;
            let entry = YamlEntry { key: text, mark: key.mark, value };
            if let Some(first) = lines.insert(entry.key.clone(), key.mark.line) {
                let message = format!("'{}' is there twice, first on line {first}", entry.key);
                return Err(YamlError { mark: key.mark, message });
            }
            if entry.key == "<<" && !quoted { merges.push(entry) } else { entries.push(entry) }
        }
        for merge in merges {
            let sources = match merge.value.value {
                YamlValue::List(items) => items.into_iter().map(|item| item.value).collect(),
                YamlValue::Scalar { quoted: false, ref text } if text.is_empty() => Vec::new(),
                value => vec![YamlNode { mark: merge.value.mark, value }],
            };
            // The first of several that has a key gives it; a key beside `<<` comes before them all.
            for source in sources {
                let YamlValue::Map(from) = source.value else {
                    return Err(YamlError { mark: merge.mark, message: "'<<' takes mappings".to_owned() });
                };
                for entry in from {
                    if entry.key != MERGED && !lines.contains_key(&entry.key) {
                        lines.insert(entry.key.clone(), entry.mark.line);
                        entries.push(entry);
                    }
                }
            }
            let null = YamlValue::Scalar { text: String::new(), quoted: false };
            entries.push(YamlEntry {
                key: MERGED.to_owned(),
                mark: merge.mark,
                value: YamlNode { mark: merge.mark, value: null },
            });
        }
        Ok(entries)
    }
}

/// The key that stays where a `<<` was, so that it can be accounted for.
pub(crate) const MERGED: &str = "<<";
