//! The kernel ABI: map keys, values, names and limits, and the pure logic of the datapath.
#![no_std]
