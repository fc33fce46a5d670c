//! Harness of the privileged and end-to-end suites.
