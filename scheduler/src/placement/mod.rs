//! Filter, score, pick: pure functions over a node snapshot.
