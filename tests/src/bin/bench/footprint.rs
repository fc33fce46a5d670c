//! What a process costs: resident memory, and CPU over a quiet while, from /proc.

use std::time::Duration;

use anyhow::{Context, Result};

/// Resident set size in MB (10^6 bytes).
pub(crate) fn resident_mb(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/status");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let kib: f64 = text
        .lines()
        .find_map(|l| l.strip_prefix("VmRSS:"))
        .and_then(|l| l.split_whitespace().next())
        .and_then(|n| n.parse().ok())
        .with_context(|| format!("no VmRSS in {path}"))?;
    Ok(kib * 1024.0 / 1e6)
}

/// CPU use over `time`, in percent of one core.
pub(crate) async fn cpu_percent(pid: u32, time: Duration) -> Result<f64> {
    let before = cpu_seconds(pid)?;
    tokio::time::sleep(time).await;
    Ok((cpu_seconds(pid)? - before) / time.as_secs_f64() * 100.0)
}

fn cpu_seconds(pid: u32) -> Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let text = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    // The program's name may hold spaces: fields count from behind its closing parenthesis.
    let fields: Vec<&str> = text.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<f64>().ok());
    let (user, system) = ticks(11).zip(ticks(12)).with_context(|| format!("short {path}"))?;
    // Linux reports these in units of 1/100 s on every architecture that we build for.
    Ok((user + system) / 100.0)
}
