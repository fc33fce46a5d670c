//! The demonstration workload: one static program, so that an image of it is small and
//! starts at once. `serve` answers HTTP (and echoes UDP), `follow` prints the lines that appear in the files of
//! a directory, `eat` and `burn` use memory and CPU. It never needs root and never writes outside what it is told.

mod burn;
mod client;
mod follow;
mod http;
mod serve;

use std::process::ExitCode;

const HELP: &str = "\
gantry-workload: a small program to run in pods

USAGE
  gantry-workload serve [--port N] [--udp-port N] [--drain-ms N]
      HTTP on every address (default port 8080, or $PORT). SIGTERM closes the listener at once, finishes the
      requests in flight and exits 0. With --drain-ms the listener stays open that long first.
        /              hostname, version and how often it was asked
        /health/live   200; 500 after /toggle?what=live
        /health/ready  200; 503 after /toggle?what=ready
        /hostname      the pod's name         /env          its environment, sorted
        /client        the caller's address   /metrics      Prometheus text
        /burn?ms=N     use one CPU for N ms   /eat?mb=N     hold N MiB more
        /log?line=X    one line on stdout     /exit?code=N  end with that code
        /toggle?what=live|ready               /sleep?ms=N   answer late
  gantry-workload get URL [COUNT]            one request, or COUNT, each on a new connection; prints the bodies
  gantry-workload hold URL                   request after request on one connection; fails when it breaks
  gantry-workload udp HOST:PORT TEXT [COUNT]  the same with datagrams
  gantry-workload follow DIR     print new lines of every file below DIR, prefixed with the file's name
  gantry-workload eat MIB        take memory in steps of 8 MiB, then stay
  gantry-workload burn SECONDS   use one CPU
  gantry-workload exit CODE      end at once
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["serve", options @ ..] => serve::Options::parse(options).and_then(serve::run),
        ["get", url] => client::get(url, 1),
        ["get", url, count] => number(count).and_then(|n| client::get(url, n)),
        ["hold", url] => client::hold(url),
        ["udp", address, text] => client::datagram(address, text, 1),
        ["udp", address, text, count] => number(count).and_then(|n| client::datagram(address, text, n)),
        ["follow", directory] => follow::run(directory.as_ref()),
        ["eat", mib] => number(mib).and_then(burn::eat_and_stay),
        ["burn", seconds] => number(seconds).map(|s| burn::cpu(std::time::Duration::from_secs(s))),
        ["exit", code] => return ExitCode::from(code.parse::<u8>().unwrap_or(2)),
        ["--help" | "-h" | "help"] => {
            print!("{HELP}");
            Ok(())
        }
        _ => Err(format!("unknown arguments {words:?}\n\n{HELP}")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("gantry-workload: {message}");
            ExitCode::from(2)
        }
    }
}

fn number(text: &str) -> Result<u64, String> {
    text.parse().map_err(|e| format!("{text:?} is not a number: {e}"))
}
