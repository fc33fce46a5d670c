//! The program that writes a container's log: started by the containerd shim with the container's output on
//! descriptors 3 and 4, and 5 to say that it is ready; or by the agent with the names of two FIFOs, and its standard
//! output to say it on.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::ExitCode,
};

use clap::Parser;
use gantry_agent::logs::{LoggerArgs, LoggerInput, run_logger};

fn main() -> ExitCode {
    let args = LoggerArgs::parse();
    match input(&args).and_then(|input| run_logger(&args, input)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gantry-logger: {error}");
            ExitCode::FAILURE
        }
    }
}

fn input(args: &LoggerArgs) -> io::Result<LoggerInput> {
    if let (Some(stdout), Some(stderr)) = (&args.stdout, &args.stderr) {
        return Ok(LoggerInput { stdout: fifo(stdout)?, stderr: fifo(stderr)?, ready: descriptor(1)? });
    }
    Ok(LoggerInput {
        stdout: File::open("/proc/self/fd/3")?,
        stderr: File::open("/proc/self/fd/4")?,
        ready: descriptor(5)?,
    })
}

/// Without waiting for whoever will write.
fn fifo(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)
}

/// Opened anew through /proc, so that no raw descriptor has to be trusted.
fn descriptor(number: u8) -> io::Result<File> {
    OpenOptions::new().write(true).open(format!("/proc/self/fd/{number}"))
}
