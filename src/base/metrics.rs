//! Figures as text for Prometheus (exposition format 0.0.4): names, units and types that its own guide asks for.

use std::fmt::{Display, Write};

/// What such a text is called in HTTP.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a figure does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// Only grows. Its name ends in `_total`.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// A text that is being written.
#[derive(Default)]
pub struct Exposition {
    text: String,
}

impl Exposition {
    /// One figure without labels.
    pub fn one(&mut self, kind: Kind, name: &str, help: &str, value: impl Display) {
        self.head(kind, name, help);
        // Writing into a String does not fail.
        let _ = writeln!(self.text, "{name} {value}");
    }

    /// One figure for each value of a label.
    pub fn many<V: Display>(
        &mut self,
        kind: Kind,
        name: &str,
        help: &str,
        label: &str,
        values: impl IntoIterator<Item = (String, V)>,
    ) {
        self.table(kind, name, help, [label], values.into_iter().map(|(of, value)| ([of], value)));
    }

    /// One figure for each combination of values of several labels.
    pub fn table<const N: usize, V: Display>(
        &mut self,
        kind: Kind,
        name: &str,
        help: &str,
        labels: [&str; N],
        values: impl IntoIterator<Item = ([String; N], V)>,
    ) {
        self.head(kind, name, help);
        for (of, value) in values {
            let escaped = |of: &str| of.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
            let pair = |(label, of): (&&str, &String)| format!("{label}=\"{}\"", escaped(of));
            let pairs: Vec<String> = labels.iter().zip(&of).map(pair).collect();
            let _ = writeln!(self.text, "{name}{{{}}} {value}", pairs.join(","));
        }
    }

    fn head(&mut self, kind: Kind, name: &str, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// All of it.
    pub fn text(self) -> String {
        self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_written_as_the_format_wants_it() {
        let mut figures = Exposition::default();
        figures.one(Kind::Counter, "a_pings_total", "Pings\\.\nAll", 3);
        figures.many(Kind::Gauge, "a_nodes", "Nodes.", "network", [("x\"y".to_owned(), 1.5), ("z\\\n".into(), 0.25)]);
        assert_eq!(
            figures.text(),
            "# HELP a_pings_total Pings\\\\.\\nAll\n# TYPE a_pings_total counter\na_pings_total 3\n\
             # HELP a_nodes Nodes.\n# TYPE a_nodes gauge\na_nodes{network=\"x\\\"y\"} 1.5\na_nodes{network=\"z\\\\\\n\"} 0.25\n"
        );
    }
}
