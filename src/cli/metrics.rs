//! Metrics for Prometheus, in the text format that node_exporter's textfile collector reads
//! (prometheus.io, *Exposition formats*).

use std::fmt::{Display, Write as _};

/// Metrics under way.
#[derive(Debug, Default)]
pub(super) struct Metrics(String);

impl Metrics {
    /// A gauge with all its values; `labels` are names and values.
    pub(super) fn gauge<'a, V: Display>(
        &mut self,
        name: &str,
        help: &str,
        values: impl IntoIterator<Item = (Vec<(&'a str, String)>, V)>,
    ) {
        let mut lines = values.into_iter().peekable();
        if lines.peek().is_none() {
            return;
        }
        let out = &mut self.0;
        let mut line = |text: String| writeln!(out, "{text}").expect("a String takes all");
        line(format!("# HELP {name} {help}"));
        line(format!("# TYPE {name} gauge"));
        for (labels, value) in lines {
            let labels: Vec<String> =
                labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
            let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
            line(format!("{name}{labels} {value}"));
        }
    }

    /// The text.
    pub(super) fn text(&self) -> &str {
        &self.0
    }
}

fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_escaped_and_nothing_has_no_header() {
        let mut metrics = Metrics::default();
        metrics.gauge("none", "Nothing.", Vec::<(Vec<(&str, String)>, u64)>::new());
        metrics.gauge("one", "One.", [(vec![], 1)]);
        metrics.gauge("two", "Two.", [(vec![("a", "x\\\"\n".to_owned()), ("b", "é".to_owned())], 2)]);
        let expected = "# HELP one One.\n# TYPE one gauge\none 1\n\
                        # HELP two Two.\n# TYPE two gauge\ntwo{a=\"x\\\\\\\"\\n\",b=\"é\"} 2\n";
        assert_eq!(metrics.text(), expected);
    }
}
