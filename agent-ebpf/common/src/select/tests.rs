//! Selection on maps of plain memory.
