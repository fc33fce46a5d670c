//! Keeps a cluster's processes alive: a background process that starts each one, starts it again when it ends,
//! and ends when told to. It only supervises; what the processes are is decided by whoever writes the plan file.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde::{Deserialize, Serialize};
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::Signals,
};

/// Shortest and longest pause before a process is started again; doubled while it ends at once.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A process that ran for so long counts as healthy: its next end starts with the shortest pause.
const HEALTHY_AFTER: Duration = Duration::from_secs(5);
/// Grace of a stop before SIGKILL.
const STOP_GRACE: Duration = Duration::from_secs(10);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// One process to keep alive.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Process {
    /// Unique name: its pid is in `<name>.pid` beside the plan file.
    pub(crate) name: String,
    /// cgroup it is put into before it starts.
    pub(crate) cgroup: PathBuf,
    /// Its output is appended here.
    pub(crate) log: PathBuf,
    /// Program and arguments.
    pub(crate) argv: Vec<String>,
}

/// Starts the supervisor for `plan` (a JSON list of processes) as a process of its own session.
pub(crate) fn start(plan: &Path, processes: &[Process]) -> Result<()> {
    fs::write(plan, serde_json::to_vec_pretty(processes)?)
        .with_context(|| format!("cannot write {}", plan.display()))?;
    let log = fs::File::options().create(true).append(true).open(plan.with_extension("log"))?;
    let child = Command::new(std::env::current_exe()?)
        .args(["supervise".as_ref(), plan.as_os_str()])
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .context("cannot start the supervisor")?;
    fs::write(pid_file(plan), child.id().to_string())?;
    Ok(())
}

/// Asks the supervisor of `plan` to stop its processes and waits until it is gone; `true` when there was one.
pub(crate) fn stop(plan: &Path) -> Result<bool> {
    let Some(pid) = running_supervisor(plan) else { return Ok(false) };
    kill(pid, Signal::SIGTERM).context("cannot signal the supervisor")?;
    let end = Instant::now() + STOP_GRACE * 2;
    while running_supervisor(plan).is_some() {
        anyhow::ensure!(Instant::now() < end, "the supervisor (pid {pid}) does not stop");
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(true)
}

/// Whether a supervisor of `plan` runs.
pub(crate) fn is_running(plan: &Path) -> bool {
    running_supervisor(plan).is_some()
}

/// The supervisor's pid, checked by its command line: a pid file may outlive its process and the number may
/// belong to somebody else by now.
fn running_supervisor(plan: &Path) -> Option<Pid> {
    let pid: i32 = fs::read_to_string(pid_file(plan)).ok()?.trim().parse().ok()?;
    let command = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let ours = command.split(|b| *b == 0).any(|word| word == plan.as_os_str().as_encoded_bytes());
    ours.then(|| Pid::from_raw(pid))
}

fn pid_file(plan: &Path) -> PathBuf {
    plan.with_file_name("supervisor.pid")
}

/// The supervisor's own main: runs until SIGTERM or SIGINT.
pub(crate) fn run(plan: &Path) -> Result<()> {
    let processes: Vec<Process> = serde_json::from_slice(&fs::read(plan)?)?;
    // Handled, not blocked: a blocked signal stays blocked in every process started from here, and a daemon that
    // never sees SIGTERM would be killed at the end of its grace.
    let mut signals = Signals::new([SIGTERM, SIGINT]).context("cannot handle signals")?;
    let stopping = Arc::new(AtomicBool::new(false));
    let directory = plan.parent().context("the plan file has no directory")?.to_owned();
    let keepers: Vec<_> = processes
        .into_iter()
        .map(|process| {
            let (stopping, directory) = (Arc::clone(&stopping), directory.clone());
            std::thread::spawn(move || keep(&process, &directory, &stopping))
        })
        .collect();
    // Never ends without a signal.
    let _ = signals.forever().next();
    stopping.store(true, Ordering::SeqCst);
    for keeper in keepers {
        if keeper.join().is_err() {
            eprintln!("a keeper thread panicked");
        }
    }
    Ok(())
}

fn keep(process: &Process, directory: &Path, stopping: &AtomicBool) {
    let mut pause = BACKOFF.0;
    while !stopping.load(Ordering::SeqCst) {
        let since = Instant::now();
        match spawn(process) {
            Ok(mut child) => {
                // The file is for tests that kill a daemon; without it the process is supervised all the same.
                if let Err(error) =
                    fs::write(directory.join(format!("{}.pid", process.name)), child.id().to_string())
                {
                    eprintln!("{}: cannot write its pid: {error}", process.name);
                }
                let how = wait(&mut child, stopping);
                eprintln!("{}: {how} after {:.1?}", process.name, since.elapsed());
            }
            Err(error) => eprintln!("{}: {error:#}", process.name),
        }
        pause = if since.elapsed() > HEALTHY_AFTER { BACKOFF.0 } else { (pause * 2).min(BACKOFF.1) };
        let end = Instant::now() + pause;
        while Instant::now() < end && !stopping.load(Ordering::SeqCst) {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

fn spawn(process: &Process) -> Result<Child> {
    let log = fs::File::options()
        .create(true)
        .append(true)
        .open(&process.log)
        .with_context(|| format!("cannot open {}", process.log.display()))?;
    // The shell puts itself into the cgroup and then becomes the program: not even its first fork escapes.
    Command::new("sh")
        .args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec \"$@\""])
        .arg(&process.cgroup)
        .args(&process.argv)
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", process.argv.join(" ")))
}

fn wait(child: &mut Child, stopping: &AtomicBool) -> String {
    let mut kill_at = None;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.to_string(),
            Ok(None) => {}
            Err(error) => return format!("cannot be waited for: {error}"),
        }
        if stopping.load(Ordering::SeqCst) {
            let pid = Pid::from_raw(child.id().cast_signed());
            match kill_at {
                None => {
                    let _ = kill(pid, Signal::SIGTERM);
                    kill_at = Some(Instant::now() + STOP_GRACE);
                }
                Some(at) if Instant::now() > at => {
                    let _ = kill(pid, Signal::SIGKILL);
                }
                Some(_) => {}
            }
        }
        std::thread::sleep(LOOK_EVERY);
    }
}
