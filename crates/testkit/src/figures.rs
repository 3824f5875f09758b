//! What the benches share: how they say how far they are, how they end, and the figures that they give.

use std::error::Error;
use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use pgbaton_types::chain;
use serde_json::json;

/// What can go wrong on the way to a figure; the text names it.
pub type Outcome<T = ()> = Result<T, Box<dyn Error + Send + Sync>>;

/// Longest wait for a state of a cluster.
pub const LIMIT: Duration = Duration::from_secs(60);

/// Tells the person at the terminal how far it is; standard output is for the result.
pub fn note(line: &str) {
    // Losing it is right: the result does not depend on it.
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// Clock ticks of a second in `/proc/PID/stat`: 100 on every Linux (`USER_HZ`, time(7)).
const TICKS_PER_SECOND: f64 = 100.0;

/// User and system time of all processes so far, in seconds, in steps of 10 ms.
///
/// # Errors
/// When one of them is gone.
pub fn processor_seconds(processes: &[i32]) -> Outcome<f64> {
    let mut ticks = 0.0;
    for pid in processes {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        let (_, rest) = stat.rsplit_once(')').ok_or("a stat line without a name")?;
        // utime and stime are fields 14 and 15; the name in parentheses is field 2 (proc(5)).
        for field in rest.split_whitespace().skip(11).take(2) {
            ticks += field.parse::<f64>()?;
        }
    }
    Ok(ticks / TICKS_PER_SECOND)
}

/// How a bench ends; a failure is told.
pub fn end(outcome: Outcome) -> ExitCode {
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            note(&format!("error: {}", chain(error.as_ref())));
            ExitCode::FAILURE
        }
    }
}

/// How a result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// A table
    Pretty,
    /// One JSON document with every sample
    Json,
}

/// One figure with its samples.
struct Row {
    name: String,
    unit: &'static str,
    to_reach: &'static str,
    samples: Vec<f64>,
}

/// Figures with their samples, and what each is to reach.
#[derive(Default)]
pub struct Figures(Vec<Row>);

impl Figures {
    /// Adds samples to a figure, which is a new one when nothing has its name yet.
    pub fn add(
        &mut self,
        name: &str,
        unit: &'static str,
        to_reach: &'static str,
        samples: impl IntoIterator<Item = f64>,
    ) {
        match self.0.iter_mut().find(|row| row.name == name) {
            Some(row) => row.samples.extend(samples),
            None => self.0.push(Row { name: name.to_owned(), unit, to_reach, samples: samples.into_iter().collect() }),
        }
    }

    /// Prints them to standard output.
    ///
    /// # Errors
    /// When nobody reads it.
    pub fn print(&self, format: Format) -> Outcome {
        let text = match format {
            Format::Pretty => self.pretty(),
            Format::Json => format!("{:#}\n", self.json()),
        };
        Ok(std::io::stdout().lock().write_all(text.as_bytes())?)
    }

    fn pretty(&self) -> String {
        let mut text =
            format!("{:62} {:>6} {:>10} {:>10} {:>10}  {}\n", "", "unit", "median", "least", "most", "to reach");
        for row in &self.0 {
            let [middle, least, most] = row.figures();
            text.push_str(&format!(
                "{:62} {:>6} {middle:>10.1} {least:>10.1} {most:>10.1}  {}\n",
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
