//! Nix text, as nixfmt writes it.

use std::collections::BTreeMap;

use serde_json::Value;

/// Words that cannot be the name of an attribute without quotes.
const KEYWORDS: [&str; 10] = ["assert", "else", "if", "in", "inherit", "let", "or", "rec", "then", "with"];

/// An attribute set with comments.
#[derive(Debug, Clone, Default)]
pub struct Set {
    attributes: BTreeMap<String, Attribute>,
}

#[derive(Debug, Clone)]
struct Attribute {
    comments: Vec<String>,
    /// What the value is given to.
    function: &'static str,
    value: Expression,
}

#[derive(Debug, Clone)]
enum Expression {
    Value(Value),
    Set(Set),
    Raw(String),
}

impl Set {
    /// An attribute with comments before it; the order of a set is that of its names.
    pub fn value(&mut self, name: &str, value: impl Into<Value>, comments: &[String]) {
        self.add(name, Expression::Value(value.into()), comments);
    }

    /// An attribute whose value is an expression of windlass' own: no text of a file may be in it, but as [`string`] writes it.
    pub(crate) fn raw(&mut self, name: &str, expression: String, comments: &[String]) {
        self.add(name, Expression::Raw(expression), comments);
    }

    /// A set in the set.
    pub(crate) fn set(&mut self, name: &str, set: Self, comments: &[String]) {
        self.add(name, Expression::Set(set), comments);
    }

    /// Gives the value of an attribute to a function, whose text ends in a space.
    pub(crate) fn apply(&mut self, name: &str, function: &'static str) {
        if let Some(attribute) = self.attributes.get_mut(name) {
            attribute.function = function;
        }
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub(crate) fn is_empty(&self) -> bool {
        self.attributes.is_empty()
    }

    fn add(&mut self, name: &str, value: Expression, comments: &[String]) {
        let attribute = Attribute { comments: comments.to_vec(), function: "", value };
        self.attributes.insert(name.to_owned(), attribute);
    }

    /// The text, without a newline at the end.
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out, 0);
        out
    }

    fn write(&self, out: &mut String, indent: usize) {
        if self.is_empty() {
            out.push_str("{ }");
            return;
        }
        out.push('{');
        for (first, attribute) in &self.attributes {
            for comment in &attribute.comments {
                line(out, indent + 1);
                out.extend(["# ", &one_line(comment)]);
            }
            line(out, indent + 1);
            let (mut names, mut value) = (name(first), &attribute.value);
            // `a.b = { … };` where `a` has nothing else.
            while let Expression::Set(set) = value
                && set.attributes.len() == 1
                && let Some((next, only)) = set.attributes.first_key_value()
                && only.comments.is_empty()
                && matches!(only.value, Expression::Set(_))
            {
                names.extend([".", &name(next)]);
                value = &only.value;
            }
            out.extend([&names, " = ", attribute.function]);
            match value {
                Expression::Set(set) => set.write(out, indent + 1),
                Expression::Value(value) => write_value(out, value, indent + 1),
                Expression::Raw(expression) => out.push_str(expression),
            }
            out.push(';');
        }
        line(out, indent);
        out.push('}');
    }
}

fn line(out: &mut String, indent: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", indent));
}

/// A comment must not end before it ends.
fn one_line(text: &str) -> String {
    text.split(['\n', '\r']).map(str::trim).collect::<Vec<_>>().join(" ")
}

fn write_value(out: &mut String, value: &Value, indent: usize) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Number(number) => out.push_str(&number_text(number)),
        Value::String(text) => out.push_str(&string(text)),
        Value::Array(items) => match &items[..] {
            [] => out.push_str("[ ]"),
            [item] => {
                out.push_str("[ ");
                write_item(out, item, indent);
                out.push_str(" ]");
            }
            items => {
                out.push('[');
                for item in items {
                    line(out, indent + 1);
                    write_item(out, item, indent + 1);
                }
                line(out, indent);
                out.push(']');
            }
        },
        Value::Object(entries) => {
            let mut set = Set::default();
            entries.iter().for_each(|(name, value)| set.value(name, value.clone(), &[]));
            set.write(out, indent);
        }
    }
}

/// Nix reads `1e-5` as two words: without an exponent, and with a point where it is not a whole number.
fn number_text(number: &serde_json::Number) -> String {
    match number.as_f64().filter(|_| number.is_f64()) {
        Some(float) if float.fract() == 0.0 => format!("{float:.1}"),
        Some(float) => float.to_string(),
        None => number.to_string(),
    }
}

fn write_item(out: &mut String, item: &Value, indent: usize) {
    // A negative number in a list would be a subtraction.
    let negative = item.as_f64().is_some_and(|number| number < 0.0);
    if negative {
        out.push('(');
    }
    write_value(out, item, indent);
    if negative {
        out.push(')');
    }
}

/// The name of an attribute, in quotes where it needs them.
#[must_use]
pub(crate) fn name(text: &str) -> String {
    let mut bytes = text.bytes();
    let first = bytes.next().is_some_and(|byte| byte.is_ascii_alphabetic() || byte == b'_');
    let rest = bytes.all(|byte| byte.is_ascii_alphanumeric() || b"_-'".contains(&byte));
    if first && rest && !KEYWORDS.contains(&text) { text.to_owned() } else { string(text) }
}

/// A string: whatever is in it, Nix reads the same again.
#[must_use]
pub(crate) fn string(text: &str) -> String {
    let mut out = String::from('"');
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '$' if chars.peek() == Some(&'{') => out.push_str("\\$"),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn sets_lists_and_comments() {
        let mut inner = Set::default();
        inner.value("b", json!(["x", "y"]), &["two\nlines".to_owned()]);
        inner.value("a", json!(["x"]), &[]);
        inner.value("if", json!({ "x.y": -1, "l": [-1, []] }), &[]);
        let mut outer = Set::default();
        outer.set("two", inner, &[]);
        let mut set = Set::default();
        set.set("one", outer, &[]);
        set.set("empty", Set::default(), &[]);
        insta::assert_snapshot!(set.text(), @r#"
        {
          empty = { };
          one.two = {
            a = [ "x" ];
            # two lines
            b = [
              "x"
              "y"
            ];
            "if" = {
              l = [
                (-1)
                [ ]
              ];
              "x.y" = -1;
            };
          };
        }
        "#);
    }

    #[test]
    fn numbers_are_one_word() {
        let text = |value: Value| {
            let mut out = String::new();
            write_value(&mut out, &value, 0);
            out
        };
        let texts = [json!(1), json!(0.5), json!(0.000_01), json!(2.0), json!(1e20)].map(text);
        assert_eq!(texts, ["1", "0.5", "0.00001", "2.0", "100000000000000000000.0"]);
    }

    #[test]
    fn strings_and_names() {
        assert_eq!(string("a\"b\\c${d}$e$${f}''\n\t"), r#""a\"b\\c\${d}$e$\${f}''\n\t""#);
        assert_eq!(
            [name("a-b'"), name("1a"), name("a b"), name("let"), name("")].join(" "),
            r#"a-b' "1a" "a b" "let" """#
        );
    }
}
