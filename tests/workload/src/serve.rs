//! The HTTP server: one thread per connection, a UDP echo beside it, and a stop on SIGTERM that closes the
//! listener first, as most real servers do: a client that is still sent here then is refused, which is what the
//! rolling-update tests want to see or not see.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{self, BufReader},
    net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsRawFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use nix::sys::{
    signal::{SigSet, Signal},
    socket::{Shutdown, shutdown},
};

use crate::{
    burn,
    http::{Request, Response, read_request, write_response},
};

/// How long a stop waits for requests in flight.
const STOP_WAIT: Duration = Duration::from_secs(10);
/// How often a stop looks whether they are done.
const STOP_LOOK: Duration = Duration::from_millis(5);
/// Pause after a failed accept (no descriptors left), so that it does not spin.
const ACCEPT_RETRY: Duration = Duration::from_millis(20);

/// Command line of `serve`.
#[derive(Clone, Copy)]
pub(crate) struct Options {
    port: u16,
    udp_port: Option<u16>,
    drain: Duration,
}

impl Options {
    /// Parses `--port N --udp-port N --drain-ms N`; the port's default is `$PORT` or 8080.
    pub(crate) fn parse(words: &[&str]) -> Result<Self, String> {
        let port = std::env::var("PORT").ok().and_then(|p| p.parse().ok()).unwrap_or(8080);
        let mut options = Self { port, udp_port: None, drain: Duration::ZERO };
        for pair in words.chunks(2) {
            let [name, value] = pair else { return Err(format!("{} needs a value", pair[0])) };
            let wrong = |e: std::num::ParseIntError| format!("{name} {value}: {e}");
            match *name {
                "--port" => options.port = value.parse().map_err(wrong)?,
                "--udp-port" => options.udp_port = Some(value.parse().map_err(wrong)?),
                "--drain-ms" => options.drain = Duration::from_millis(value.parse().map_err(wrong)?),
                other => return Err(format!("unknown option {other}")),
            }
        }
        Ok(options)
    }
}

struct State {
    hostname: String,
    version: String,
    requests: AtomicU64,
    in_flight: AtomicU64,
    live: AtomicBool,
    ready: AtomicBool,
    held: Mutex<Vec<Vec<u8>>>,
}

/// Serves until SIGTERM or SIGINT.
pub(crate) fn run(options: Options) -> Result<(), String> {
    let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, options.port))
        .or_else(|_| TcpListener::bind(("0.0.0.0", options.port)))
        .map_err(|e| format!("cannot listen on port {}: {e}", options.port))?;
    let stopping = shut_on_signal(&listener, options.drain)?;
    let state = Arc::new(State {
        hostname: std::fs::read_to_string("/etc/hostname")
            .map_or_else(|_| "unknown".to_owned(), |h| h.trim().to_owned()),
        version: std::env::var("APP_VERSION").unwrap_or_else(|_| "dev".to_owned()),
        requests: AtomicU64::new(0),
        in_flight: AtomicU64::new(0),
        live: AtomicBool::new(true),
        ready: AtomicBool::new(true),
        held: Mutex::new(Vec::new()),
    });
    if let Some(port) = options.udp_port {
        let socket = UdpSocket::bind(("0.0.0.0", port)).map_err(|e| format!("UDP port {port}: {e}"))?;
        let state = Arc::clone(&state);
        std::thread::spawn(move || udp_echo(&socket, &state));
    }
    println!("{} version {} serving on port {}", state.hostname, state.version, options.port);
    accept_until_shut(&listener, &state, &stopping);
    drop(listener);
    println!("stopping: listener closed, {} requests in flight", state.in_flight.load(Ordering::SeqCst));
    let end = Instant::now() + STOP_WAIT;
    while state.in_flight.load(Ordering::SeqCst) > 0 && Instant::now() < end {
        std::thread::sleep(STOP_LOOK);
    }
    Ok(())
}

/// Accepts until the listener is shut down.
fn accept_until_shut(listener: &TcpListener, state: &Arc<State>, stopping: &AtomicBool) {
    loop {
        match listener.accept() {
            Ok((stream, peer)) => {
                let state = Arc::clone(state);
                std::thread::spawn(move || {
                    // A client that goes away in the middle is its own affair.
                    let _ = connection(&stream, peer, &state);
                });
            }
            Err(_) if stopping.load(Ordering::SeqCst) => return,
            Err(error) => {
                eprintln!("accept: {error}");
                std::thread::sleep(ACCEPT_RETRY);
            }
        }
    }
}

fn connection(stream: &TcpStream, peer: SocketAddr, state: &State) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = read_request(&mut reader)? {
        state.in_flight.fetch_add(1, Ordering::SeqCst);
        state.requests.fetch_add(1, Ordering::Relaxed);
        let response = answer(&request, peer, state);
        let written = write_response(&mut &*stream, &response, request.close);
        state.in_flight.fetch_sub(1, Ordering::SeqCst);
        written?;
        if request.close {
            break;
        }
    }
    Ok(())
}

fn answer(request: &Request, peer: SocketAddr, state: &State) -> Response {
    let flag = |flag: &AtomicBool, status| {
        if flag.load(Ordering::SeqCst) {
            Response::ok("ok\n")
        } else {
            Response { status, body: "switched off by /toggle\n".to_owned() }
        }
    };
    match request.path.as_str() {
        "/" => Response::ok(format!(
            "{} version {} request {}\n",
            state.hostname,
            state.version,
            state.requests.load(Ordering::Relaxed)
        )),
        "/health/live" => flag(&state.live, 500),
        "/health/ready" => flag(&state.ready, 503),
        "/hostname" => Response::ok(format!("{}\n", state.hostname)),
        "/client" => Response::ok(format!("{peer}\n")),
        "/env" => Response::ok(environment()),
        "/metrics" => Response::ok(metrics(state)),
        "/burn" => {
            burn::cpu(request.millis("ms"));
            Response::ok("burnt\n")
        }
        "/sleep" => {
            std::thread::sleep(request.millis("ms"));
            Response::ok("slept\n")
        }
        "/eat" => eat(request, state),
        "/log" => {
            println!("{}", request.query("line").unwrap_or_default());
            Response::ok("logged\n")
        }
        "/toggle" => toggle(request, state),
        "/exit" => exit_after_answer(request),
        _ => Response { status: 404, body: "no such path; see gantry-workload --help\n".to_owned() },
    }
}

fn environment() -> String {
    let sorted: BTreeMap<String, String> = std::env::vars().collect();
    sorted.iter().map(|(name, value)| format!("{name}={value}\n")).collect()
}

fn metrics(state: &State) -> String {
    let mut text = String::new();
    let requests = state.requests.load(Ordering::Relaxed);
    let in_flight = state.in_flight.load(Ordering::Relaxed);
    let _ = write!(
        text,
        "# HELP http_requests_total Requests answered.\n# TYPE http_requests_total counter\n\
         http_requests_total {requests}\n\
         # HELP http_requests_in_flight Requests being answered.\n# TYPE http_requests_in_flight gauge\n\
         http_requests_in_flight {in_flight}\n"
    );
    text
}

fn eat(request: &Request, state: &State) -> Response {
    let mib = request.query("mb").and_then(|m| m.parse().ok()).unwrap_or(0);
    match burn::memory(mib) {
        Ok(block) => {
            let mut held = state.held.lock().unwrap_or_else(PoisonError::into_inner);
            held.push(block);
            Response::ok(format!("holding {} blocks\n", held.len()))
        }
        Err(message) => Response { status: 400, body: message },
    }
}

fn toggle(request: &Request, state: &State) -> Response {
    let flag = match request.query("what") {
        Some("live") => &state.live,
        Some("ready") => &state.ready,
        _ => return Response { status: 400, body: "what=live or what=ready\n".to_owned() },
    };
    let was = flag.fetch_xor(true, Ordering::SeqCst);
    Response::ok(format!("now {}\n", if was { "off" } else { "on" }))
}

#[expect(clippy::disallowed_methods, reason = "ending the process on request is this endpoint's purpose")]
fn exit_after_answer(request: &Request) -> Response {
    let code = request.query("code").and_then(|c| c.parse().ok()).unwrap_or(0);
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        std::process::exit(code);
    });
    Response::ok("bye\n")
}

fn udp_echo(socket: &UdpSocket, state: &State) {
    let mut buffer = [0; 2048];
    loop {
        match socket.recv_from(&mut buffer) {
            Ok((length, peer)) => {
                let text = String::from_utf8_lossy(&buffer[..length]);
                // The answer names the pod, so that a client can tell who served it.
                if let Err(error) = socket.send_to(format!("{} {text}", state.hostname).as_bytes(), peer) {
                    eprintln!("udp: {error}");
                }
            }
            Err(error) => eprintln!("udp: {error}"),
        }
    }
}

/// Shuts `listener` down `drain` after SIGTERM or SIGINT, which wakes the accept loop; the flag says why. The
/// signals are blocked in this thread (and so in all that it starts) and waited for in one thread of their own:
/// nothing happens in a signal handler.
fn shut_on_signal(listener: &TcpListener, drain: Duration) -> Result<Arc<AtomicBool>, String> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(|e| format!("cannot block signals: {e}"))?;
    let listener = listener.try_clone().map_err(|e| format!("listener: {e}"))?;
    let stopping = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&stopping);
    std::thread::spawn(move || {
        if signals.wait().is_ok() {
            std::thread::sleep(drain);
            flag.store(true, Ordering::SeqCst);
            if let Err(error) = shutdown(listener.as_raw_fd(), Shutdown::Both) {
                eprintln!("cannot close the listener: {error}");
            }
        }
    });
    Ok(stopping)
}
