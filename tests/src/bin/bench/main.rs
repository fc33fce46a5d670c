//! The benchmarks that need a cluster: started by `cargo xtask bench`, which brings one up. Prints a table for
//! people and writes the same figures as JSON. Figures come from this run alone; peers run in the same run,
//! interleaved.

mod api;
mod change;
mod churn;
mod footprint;
mod peers;
mod placement;
mod pods;
mod report;
mod timings;
mod wire;

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};

/// Benchmarks against a running cluster (KUBECONFIG says which).
#[derive(Parser)]
struct Cli {
    /// Also write the figures here, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Pod start: create to Running as a watch sees it, beside `ctr run` of the same image; then the daemons'
    /// memory and idle CPU with all those pods there.
    Pods(pods::Options),
    /// Requests to our API server and to upstream's with its etcd, interleaved.
    Api(api::Options),
    /// Placement beside upstream's kube-scheduler, interleaved.
    Placement(placement::Options),
    /// One endpoint change: from its write to the API until a connect on the node sees it.
    Change(change::Options),
    /// Changes for a long time, and the daemons' memory all the while.
    Churn(churn::Options),
    /// Asks a service for ever and prints each change of its answer (started by `change`).
    #[command(hide = true)]
    Ask(change::Ask),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    // A client of one thread, where it asks one thing at a time: none of its own threads has to be woken.
    let mut runtime = match cli.command {
        Command::Api(_) => tokio::runtime::Builder::new_current_thread(),
        _ => tokio::runtime::Builder::new_multi_thread(),
    };
    let done = runtime.enable_all().build().context("no runtime").and_then(|r| r.block_on(run(cli)));
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> Result<()> {
    let rows = match cli.command {
        Command::Pods(options) => pods::run(&options).await?,
        Command::Api(options) => api::run(&options).await?,
        Command::Placement(options) => placement::run(&options).await?,
        Command::Change(options) => change::run(&options).await?,
        Command::Churn(options) => churn::run(&options).await?,
        Command::Ask(ask) => return change::ask(&ask),
    };
    report::print(&rows);
    if let Some(path) = cli.json {
        std::fs::write(&path, serde_json::to_vec_pretty(&rows)?)
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
