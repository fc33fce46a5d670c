//! gantry-agent: arguments, logs, configuration, runtime, exit code. Everything else is in the library.

use std::process::ExitCode;

use clap::Parser as _;
use gantry_agent::cli;

fn main() -> ExitCode {
    let arguments = match cli::Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // `--help` and `--version` are answers, not failures.
            let code = if error.use_stderr() { cli::BAD_USAGE } else { cli::OK };
            return if error.print().is_ok() { code.into() } else { cli::FAILURE.into() };
        }
    };
    match cli::run(&arguments) {
        Ok(()) => cli::OK.into(),
        Err(error) => {
            eprintln!("gantry-agent: {}", gantry_agent::model::Chain(&error));
            error.exit_code().into()
        }
    }
}
