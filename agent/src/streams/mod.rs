//! exec, attach, logs and port-forward on behalf of the scheduler.
