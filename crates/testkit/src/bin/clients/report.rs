//! The result: each figure with what it is to reach.

use std::io::Write as _;

use serde_json::json;

use crate::Outcome;

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// A table
    Pretty,
    /// One JSON document with every sample
    Json,
}

/// One figure with its samples.
struct Row {
    name: &'static str,
    unit: &'static str,
    to_reach: &'static str,
    samples: Vec<f64>,
}

/// All figures.
#[derive(Default)]
pub(crate) struct Report(Vec<Row>);

impl Report {
    /// Adds a figure.
    pub(crate) fn add(&mut self, name: &'static str, unit: &'static str, to_reach: &'static str, samples: Vec<f64>) {
        self.0.push(Row { name, unit, to_reach, samples });
    }

    /// Prints it to standard output.
    pub(crate) fn print(&self, format: Format) -> Outcome {
        let text = match format {
            Format::Pretty => self.pretty(),
            Format::Json => format!("{:#}\n", self.json()),
        };
        Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
    }

    fn pretty(&self) -> String {
        let mut text =
            format!("{:46} {:>6} {:>10} {:>10} {:>10}  {}\n", "", "unit", "median", "least", "most", "to reach");
        for row in &self.0 {
            let [middle, least, most] = row.figures();
            text.push_str(&format!(
                "{:46} {:>6} {middle:>10.1} {least:>10.1} {most:>10.1}  {}\n",
                row.name, row.unit, row.to_reach
            ));
        }
        text
    }

    fn json(&self) -> serde_json::Value {
        let row = |row: &Row| {
            let [median, least, most] = row.figures();
            json!({"name": row.name, "unit": row.unit, "to_reach": row.to_reach, "median": median, "least": least,
                "most": most, "samples": row.samples})
        };
        self.0.iter().map(row).collect()
    }
}

impl Row {
    /// Median, least and most.
    fn figures(&self) -> [f64; 3] {
        let mut sorted = self.samples.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
        [at(sorted.len() / 2), at(0), at(sorted.len().saturating_sub(1))]
    }
}
