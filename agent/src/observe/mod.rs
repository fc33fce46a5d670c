//! Joins what runtime, network and volumes report into one Observed.
