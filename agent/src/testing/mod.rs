//! Scripted and stateful fakes of the ports.
