//! Figures as rows: what was measured, its quantiles, and the target it is held against.

use comfy_table::{Table, presets::UTF8_FULL_CONDENSED};
use hdrhistogram::Histogram;
use serde::Serialize;

/// One line of a report.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// What was measured.
    pub(crate) what: String,
    /// Median, or the value itself when there is one.
    pub(crate) p50: f64,
    /// 99th percentile, when there are enough samples.
    pub(crate) p99: Option<f64>,
    /// How many samples.
    pub(crate) samples: u64,
    /// `ms`, `MB`, `% of a core`.
    pub(crate) unit: &'static str,
    /// The target, in words.
    pub(crate) target: &'static str,
}

impl Row {
    /// A row of times; the histogram holds microseconds.
    pub(crate) fn times(what: &str, micros: &Histogram<u64>, target: &'static str) -> Self {
        let ms = |q: f64| Histogram::value_at_quantile(micros, q) as f64 / 1000.0;
        Self {
            what: what.to_owned(),
            p50: ms(0.5),
            p99: Some(ms(0.99)),
            samples: micros.len(),
            unit: "ms",
            target,
        }
    }

    /// A row with one value.
    pub(crate) fn value(what: &str, value: f64, unit: &'static str, target: &'static str) -> Self {
        Self { what: what.to_owned(), p50: value, p99: None, samples: 1, unit, target }
    }
}

/// The table for people.
pub(crate) fn print(rows: &[Row]) {
    let mut table = Table::new();
    table
        .load_preset(UTF8_FULL_CONDENSED)
        .set_header(["MEASURED", "P50", "P99", "UNIT", "SAMPLES", "TARGET"]);
    for row in rows {
        let p99 = row.p99.map_or_else(|| "-".to_owned(), |v| format!("{v:.1}"));
        let cells =
            [&row.what, &format!("{:.1}", row.p50), &p99, row.unit, &row.samples.to_string(), row.target];
        table.add_row(cells);
    }
    println!("{table}");
}
