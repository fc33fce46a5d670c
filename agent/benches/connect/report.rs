//! The figures as a table and as JSON.

use std::{fmt, time::Duration};

use crate::{
    programming::Programming,
    worker::{Variant, Worker},
};

/// All of it.
#[derive(serde::Serialize)]
pub(crate) struct Report {
    pub(crate) connect: Vec<Connect>,
    pub(crate) programming: Programming,
}

/// One variant at one number of services.
#[derive(serde::Serialize)]
pub(crate) struct Connect {
    variant: Variant,
    services: u32,
    load_ms: f64,
    /// Median over rounds of the round's median.
    connect_us: f64,
    /// Median over rounds of the ratio to direct in the same round.
    ratio: f64,
    /// The same for the difference.
    over_direct_us: f64,
    /// Middle half of the ratios.
    ratio_quartiles: [f64; 2],
}

impl Connect {
    /// Column `index` of `rounds`, beside direct in column 0.
    pub(crate) fn of(worker: &Worker, rounds: &[Vec<Duration>], index: usize) -> Self {
        let us = |time: Duration| time.as_secs_f64() * 1e6;
        let column = |value: &dyn Fn(&[Duration]) -> f64| {
            let mut values: Vec<f64> = rounds.iter().map(|round| value(round)).collect();
            values.sort_by(f64::total_cmp);
            values
        };
        let ratios = column(&|round| us(round[index]) / us(round[0]));
        let middle = |values: &[f64]| values[values.len() / 2];
        Self {
            variant: worker.variant,
            services: worker.services,
            load_ms: us(worker.load) / 1e3,
            connect_us: middle(&column(&|round| us(round[index]))),
            ratio: middle(&ratios),
            over_direct_us: middle(&column(&|round| us(round[index]) - us(round[0]))),
            ratio_quartiles: [ratios[ratios.len() / 4], ratios[ratios.len() * 3 / 4]],
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "| variant | services | connect p50 | over direct | ratio (quartiles) | load |")?;
        writeln!(f, "|---|---:|---:|---:|---:|---:|")?;
        for row in &self.connect {
            let [low, high] = row.ratio_quartiles;
            writeln!(
                f,
                "| {:?} | {} | {:.1} us | {:+.2} us | {:.2} ({low:.2} to {high:.2}) | {:.0} ms |",
                row.variant, row.services, row.connect_us, row.over_direct_us, row.ratio, row.load_ms
            )?;
        }
        let programming = &self.programming;
        writeln!(f)?;
        writeln!(
            f,
            "| programming {} services x {} endpoints | |\n|---|---:|",
            programming.services, programming.endpoints_each
        )?;
        writeln!(f, "| all of them, from an empty table | {:.1} ms |", programming.all_ms)?;
        writeln!(f, "| a new agent takes them over | {:.1} ms |", programming.takeover_ms)?;
        writeln!(f, "| one endpoint change, p50 | {:.0} us |", programming.change_p50_us)?;
        write!(f, "| one endpoint change, p99 | {:.0} us |", programming.change_p99_us)
    }
}
