//! The result: medians of both stores and their ratio.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;

use serde_json::json;

use crate::voters::Kind;
use crate::{Format, Outcome};

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub(crate) enum Measure {
    /// Writes by one client
    PutAlone,
    /// Writes by 32 clients
    Put,
    /// Linearizable reads by 32 clients
    Get,
    /// From a put to a watcher's notification
    Watch,
    /// Memory of all voters with one cluster's keys
    Memory,
    /// Processor time of all voters while clusters renew their leases
    Leases,
    /// Time without a leader after the leader is killed
    Election,
}

impl Measure {
    pub(crate) fn title(self) -> &'static str {
        match self {
            Self::PutAlone => "put, 1 client",
            Self::Put => "put, 32 clients",
            Self::Get => "linearizable get, 32 clients",
            Self::Watch => "put to notification",
            Self::Memory => "memory of all voters",
            Self::Leases => "renewals, processor",
            Self::Election => "no leader after a kill",
        }
    }
}

/// All samples so far.
#[derive(Default)]
pub(crate) struct Report {
    rows: BTreeMap<(Measure, usize, &'static str), BTreeMap<Kind, Vec<f64>>>,
}

impl Report {
    /// Adds a sample.
    pub(crate) fn add(&mut self, measure: Measure, members: usize, kind: Kind, unit: &'static str, value: f64) {
        self.rows.entry((measure, members, unit)).or_default().entry(kind).or_default().push(value);
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
            "{:30} {:>7} {:>8} {:>26} {:>26} {:>6}",
            "measure", "members", "unit", "etcd", "embedded", "ratio"
        )?;
        for ((measure, members, unit), stores) in &self.rows {
            let empty = Vec::new();
            let values = |kind| stores.get(&kind).unwrap_or(&empty);
            let figure = |kind| {
                let values = values(kind);
                if *measure == Measure::Election {
                    return format!("{:.0}, p99 {:.0}", percentile(values, 50), percentile(values, 99));
                }
                let [middle, low, high] = [50, 0, 100].map(|percent| percentile(values, percent));
                if high < 100.0 {
                    format!("{middle:.2} ({low:.2}-{high:.2})")
                } else {
                    format!("{middle:.0} ({low:.0}-{high:.0})")
                }
            };
            let percent = if *measure == Measure::Election { 99 } else { 50 };
            let ratio = percentile(values(Kind::Embedded), percent) / percentile(values(Kind::Etcd), percent);
            writeln!(
                text,
                "{:30} {members:>7} {unit:>8} {:>26} {:>26} {ratio:>6.2}",
                measure.title(),
                figure(Kind::Etcd),
                figure(Kind::Embedded)
            )?;
        }
        Ok(text)
    }

    fn json(&self) -> serde_json::Value {
        let rows = self.rows.iter().flat_map(|((measure, members, unit), stores)| {
            stores.iter().map(move |(kind, values)| {
                json!({
                    "measure": measure.title(), "members": members, "unit": unit, "store": kind.title(),
                    "median": percentile(values, 50), "p99": percentile(values, 99), "values": values,
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
