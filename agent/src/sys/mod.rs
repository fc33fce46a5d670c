//! Thin syscall wrappers: the only unsafe code of the agent.
