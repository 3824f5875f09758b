//! Memory and processor time of each member's agent, its guard included, PostgreSQL and a store's server excluded. The primary's
//! member and the one that leads the store do more than the third: the result shows the lowest and the highest.

use std::fs;
use std::time::Duration;

use pgbaton_testkit::figures::processor_seconds;

use crate::Outcome;
use crate::cluster::Cluster;
use crate::events::{Event, Sample};

/// Lets the cluster run for `time`, then measures over the same time.
pub(crate) fn measure(cluster: &mut Cluster<'_>, time: Duration) -> Outcome<Vec<Sample>> {
    // waits: the figures are defined after this time, not after a state.
    std::thread::sleep(time);
    let mut before = Vec::new();
    for index in 0..cluster.size() {
        before.push(processor_seconds(&cluster.agent_processes(index)?)?);
    }
    // waits: processor time is measured over a stretch of time.
    std::thread::sleep(time);
    let sample = |unit, value| Sample { event: Event::Footprint, unit, value, lost_rows: None };
    let mut samples = Vec::new();
    for (index, before) in before.into_iter().enumerate() {
        let processes = cluster.agent_processes(index)?;
        // A process that ended meanwhile takes its ticks with it.
        let percent = (processor_seconds(&processes)? - before).max(0.0) / time.as_secs_f64().max(1.0) * 100.0;
        samples.push(sample("KiB PSS", kibibytes(&processes, "Pss:")?));
        samples.push(sample("KiB RSS", kibibytes(&processes, "Rss:")?));
        samples.push(sample("% CPU", percent));
    }
    Ok(samples)
}

/// The sum of one line of `smaps_rollup` over all processes.
fn kibibytes(processes: &[i32], line: &str) -> Outcome<f64> {
    let mut sum = 0.0;
    for pid in processes {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
        let value = text.lines().find_map(|candidate| candidate.strip_prefix(line));
        let number =
            value.and_then(|value| value.trim().split(' ').next()).and_then(|number| number.parse::<f64>().ok());
        sum += number.ok_or_else(|| format!("no {line} of process {pid}"))?;
    }
    Ok(sum)
}
