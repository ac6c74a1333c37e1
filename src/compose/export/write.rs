//! YAML text with comments, the same for the same value.

use std::fmt::Write as _;

/// A value to be written.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Yaml {
    /// Text, in quotes where it needs them.
    Text(String),
    /// A number, `true` or `false`.
    Plain(String),
    /// A list.
    List(Vec<Self>),
    /// A mapping, in this order.
    Map(Vec<YamlKey>),
}

/// A key with its value, and comments before it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct YamlKey {
    pub(crate) comments: Vec<String>,
    pub(crate) name: String,
    pub(crate) value: Yaml,
}

impl Yaml {
    /// Text for a compose file: a dollar sign there begins a variable.
    pub(crate) fn text(text: &str) -> Self {
        Self::Text(text.replace('$', "$$"))
    }

    pub(crate) fn texts(texts: &[String]) -> Self {
        Self::List(texts.iter().map(|text| Self::text(text)).collect())
    }

    /// The text of a file, which is a mapping.
    pub(crate) fn file(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0);
        out.trim_start_matches('\n').to_owned() + "\n"
    }

    fn write(&self, out: &mut String, indent: usize) {
        match self {
            Self::Text(text) => out.extend([" ", &quoted(text)]),
            Self::Plain(text) => out.extend([" ", text]),
            Self::List(items) if items.is_empty() => out.push_str(" []"),
            Self::Map(keys) if keys.is_empty() => out.push_str(" {}"),
            Self::List(items) => {
                for item in items {
                    line(out, indent);
                    out.push('-');
                    item.write_inline(out, indent + 1);
                }
            }
            Self::Map(keys) => {
                for key in keys {
                    for comment in &key.comments {
                        line(out, indent);
                        out.extend(["# ", comment]);
                    }
                    line(out, indent);
                    out.extend([&quoted(&key.name), ":"]);
                    key.value.write(out, indent + 1);
                }
            }
        }
    }

    /// In a list: a mapping begins on the line of its dash.
    fn write_inline(&self, out: &mut String, indent: usize) {
        let mut text = String::new();
        self.write(&mut text, indent);
        let begins = matches!(self, Self::Map(keys) if !keys.is_empty());
        if begins { out.extend([" ", text.trim_start()]) } else { out.push_str(&text) }
    }
}

fn line(out: &mut String, indent: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", indent));
}

/// As it is where no reader of YAML can take it for anything else than text.
fn quoted(text: &str) -> String {
    let first = text.bytes().next().is_some_and(|byte| byte.is_ascii_alphabetic() || matches!(byte, b'/' | b'_'));
    let plain = text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_.-@=+,".contains(&byte));
    let word = matches!(
        text.to_ascii_lowercase().as_str(),
        "true" | "false" | "yes" | "no" | "on" | "off" | "y" | "n" | "null" | "inf" | "nan"
    );
    let colon = text.split(':').count() > 1
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_.-@=+,:".contains(&byte));
    if first && !word && (plain || colon && !text.ends_with(':')) {
        return text.to_owned();
    }
    // JSON is YAML: its escapes are known there too. JSON leaves some characters as they are that YAML takes for the end of a
    // line, or for none.
    let mut out = String::new();
    for c in serde_json::Value::from(text).to_string().chars() {
        match c {
            '\u{7f}'..='\u{9f}' | '\u{2028}' | '\u{2029}' | '\u{feff}' | '\u{fffe}' | '\u{ffff}' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_quoted_where_it_must_be() {
        for (text, written) in [
            ("redis", "redis"),
            ("data:/data:ro", "data:/data:ro"),
            ("", "\"\""),
            ("no", "\"no\""),
            ("8080:80", "\"8080:80\""),
            ("a: b", "\"a: b\""),
            ("a:", "\"a:\""),
            ("a #b", "\"a #b\""),
            ("a\n\"b\"\\", "\"a\\n\\\"b\\\"\\\\\""),
            ("1.10", "\"1.10\""),
            ("*x", "\"*x\""),
            ("a\u{85}b\u{2028}\u{7f}\u{feff}é", "\"a\\u0085b\\u2028\\u007f\\ufeffé\""),
        ] {
            assert_eq!(quoted(text), written);
            let read = crate::compose::read::yaml::parse(&format!("k: {written}"), 0).unwrap().root;
            let expected = crate::compose::read::yaml::YamlValue::Scalar {
                text: text.to_owned(),
                quoted: written.starts_with('"'),
            };
            assert_eq!(read.get("k").unwrap().value.value, expected);
        }
    }
}
