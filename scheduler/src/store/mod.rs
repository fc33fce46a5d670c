//! Durable, revisioned storage of object bytes.
