//! What to do next for every pod: a pure function of Observed and Desired.
