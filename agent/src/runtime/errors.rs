//! From containerd's answers to [`RuntimeError`]: which failures are the container's own (its command cannot be
//! run) and which are containerd's.

use tonic::{Code, Status};

use super::RuntimeError;

/// For `map_err`.
pub(super) fn call(operation: &'static str, subject: impl Into<String>) -> impl Fn(Status) -> RuntimeError {
    let subject = subject.into();
    move |status| RuntimeError::Call { operation, subject: subject.clone(), source: Box::new(status) }
}

/// Failure of creating or starting a process: the OCI runtime's words when it was reached.
pub(super) fn start_failure(operation: &'static str, subject: &str, status: Status) -> RuntimeError {
    let of_containerd = matches!(
        status.code(),
        Code::Unavailable
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::NotFound
            | Code::ResourceExhausted
    );
    if of_containerd {
        call(operation, subject)(status)
    } else {
        RuntimeError::Start { message: words(status.message()) }
    }
}

/// crun and runc say the same thing differently; users know runc's words.
fn words(message: &str) -> String {
    const CRUN: &str = "executable file `";
    let message = message.strip_suffix(": unknown").unwrap_or(message);
    if let Some((_, rest)) = message.split_once(CRUN)
        && let Some((program, _)) = rest.split_once("` not found")
    {
        return format!(
            "failed to create containerd task: OCI runtime create failed: unable to start container process: \
             exec: {program:?}: executable file not found in $PATH"
        );
    }
    format!("failed to create containerd task: {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(status: Status) -> String {
        match start_failure("create", "c", status) {
            RuntimeError::Start { message } => message,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn both_runtimes_report_a_missing_program_alike() {
        let end = "exec: \"foo\": executable file not found in $PATH";
        let crun = "failed to create shim task: OCI runtime create failed: executable file `foo` not found in \
                    $PATH: No such file or directory: unknown";
        let runc = format!(
            "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container \
             process: {end}: unknown"
        );
        assert!(message(Status::unknown(crun)).ends_with(end));
        assert!(message(Status::unknown(runc)).ends_with(end));
    }

    #[test]
    fn containerd_being_away_is_not_the_containers_fault() {
        let error = start_failure("create", "c", Status::unavailable("connection refused"));
        assert!(matches!(error, RuntimeError::Call { operation: "create", .. }));
    }
}
