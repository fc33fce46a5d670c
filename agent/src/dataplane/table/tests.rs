//! The table on maps of plain memory, read by the code the kernel runs.
