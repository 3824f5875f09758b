//! The result: medians of all ways, and the router's beside HAProxy's.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::json;

use crate::balancer::Kind;
use crate::{Format, Outcome};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Measure {
    /// Reads by key on sessions that stay
    Select,
    /// A session for each read
    Connect,
    /// Memory of connections that say nothing
    Idle,
}

impl Measure {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::Select => "pgbench -S",
            Self::Connect => "pgbench -S -C",
            Self::Idle => "idle connections",
        }
    }
}

/// All samples so far.
#[derive(Default)]
pub(crate) struct Report {
    rows: BTreeMap<(Measure, &'static str), BTreeMap<Kind, Vec<f64>>>,
}

impl Report {
    /// Adds a sample.
    pub(crate) fn add(&mut self, measure: Measure, kind: Kind, unit: &'static str, value: f64) {
        self.rows.entry((measure, unit)).or_default().entry(kind).or_default().push(value);
    }

    /// Prints it to standard output.
    pub(crate) fn print(&self, format: Format) -> Outcome {
        let text = match format {
            Format::Pretty => self.pretty()?,
            Format::Json => format!("{:#}\n", self.json()),
        };
        Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
    }

    fn pretty(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        writeln!(
            text,
            "{:18} {:>8} {:>26} {:>26} {:>26} {:>6}",
            "measure", "unit", "direct", "HAProxy", "router", "ratio"
        )?;
        for ((measure, unit), ways) in &self.rows {
            let empty = Vec::new();
            let values = |kind| ways.get(&kind).unwrap_or(&empty);
            let figure = |kind| {
                let [middle, low, high] = [50, 0, 100].map(|percent| percentile(values(kind), percent));
                if high < 100.0 {
                    format!("{middle:.2} ({low:.2}-{high:.2})")
                } else {
                    format!("{middle:.0} ({low:.0}-{high:.0})")
                }
            };
            let ratio = percentile(values(Kind::Router), 50) / percentile(values(Kind::Haproxy), 50);
            let [direct, haproxy, router] = [Kind::Direct, Kind::Haproxy, Kind::Router].map(figure);
            writeln!(text, "{:18} {unit:>8} {direct:>26} {haproxy:>26} {router:>26} {ratio:>6.2}", measure.title())?;
        }
        Ok(text)
    }

    fn json(&self) -> serde_json::Value {
        let rows = self.rows.iter().flat_map(|((measure, unit), ways)| {
            ways.iter().map(move |(kind, values)| {
                json!({
                    "measure": measure.title(), "unit": unit, "way": kind.title(),
                    "median": percentile(values, 50), "values": values,
                })
            })
        });
        json!({"rows": rows.collect::<Vec<_>>()})
    }
}

/// The value below which `percent` of the others are; the upper one of two in the middle.
pub(crate) fn percentile(values: &[f64], percent: usize) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get((sorted.len() * percent / 100).min(sorted.len().saturating_sub(1))).copied().unwrap_or(f64::NAN)
}
