//! Stands in for the crate `base2histogram` where openraft keeps statistics that pgbaton does not read. It has the same
//! names and keeps nothing: the original builds tables of 26 MB in every process at first use.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

use std::fmt;
use std::marker::PhantomData;

/// Takes values and forgets them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Histogram<T = ()> {
    labels: PhantomData<T>,
}

impl<T> Default for Histogram<T> {
    fn default() -> Self {
        Self { labels: PhantomData }
    }
}

impl<T> Histogram<T> {
    /// An empty one; it stays so.
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets a value.
    pub fn record(&mut self, _value: u64) {}

    /// Forgets a value that occurred several times.
    pub fn record_n(&mut self, _value: u64, _times: u64) {}

    /// The figures of no values.
    pub fn percentile_stats(&self) -> PercentileStats {
        PercentileStats::default()
    }
}

/// Percentiles of recorded values; always zero.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "each field is the percentile in its name")]
pub struct PercentileStats {
    pub samples: u64,
    pub p0_1: u64,
    pub p1: u64,
    pub p5: u64,
    pub p10: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p99_9: u64,
}

impl fmt::Display for PercentileStats {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("[not recorded]")
    }
}

/// A chart without histograms.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AsciiChart;

impl AsciiChart {
    /// An empty chart.
    pub fn new() -> Self {
        Self
    }

    /// The same chart.
    #[must_use]
    pub fn add<T>(self, _name: impl Into<String>, _histogram: Histogram<T>) -> Self {
        self
    }
}

impl fmt::Display for AsciiChart {
    fn fmt(&self, _formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        Ok(())
    }
}
