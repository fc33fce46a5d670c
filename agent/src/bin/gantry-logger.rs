//! The program that writes a container's log: started by the containerd shim with the container's output on
//! descriptors 3 and 4, and 5 to say that it is ready.

use std::{
    fs::{File, OpenOptions},
    io,
    process::ExitCode,
};

use clap::Parser;
use gantry_agent::logs::{LoggerArgs, LoggerInput, run_logger};

fn main() -> ExitCode {
    let args = LoggerArgs::parse();
    match input().and_then(|input| run_logger(&args, input)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gantry-logger: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Opened anew through /proc, so that no raw descriptor has to be trusted.
fn input() -> io::Result<LoggerInput> {
    Ok(LoggerInput {
        stdout: File::open("/proc/self/fd/3")?,
        stderr: File::open("/proc/self/fd/4")?,
        ready: OpenOptions::new().write(true).open("/proc/self/fd/5")?,
    })
}
