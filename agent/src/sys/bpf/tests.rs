//! A grace period against a program that runs for as long as the test wants.

use std::{
    sync::atomic::Ordering,
    thread,
    time::{Duration, Instant},
};

use super::*;
use crate::sys::mapped::MappedArray;

const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_PROG_TYPE_SOCKET_FILTER: u32 = 1;
const BPF_F_MMAPABLE: u32 = 1 << 10;
/// Helpers, by their numbers.
const LOOKUP: i32 = 1;
const UPDATE: i32 = 2;

/// How long the program is kept running under the wait; a wait with nothing to wait for takes a tenth of it.
const HELD: Duration = Duration::from_millis(500);
/// The program copies this much between two looks at whether it may end: some 400 microseconds.
const COPIED: u32 = 4 << 20;
/// ... so often at most: some seconds, should the test not live to end it.
const TURNS: i32 = 8000;

/// `union bpf_attr` for BPF_PROG_LOAD, as far as it is used.
#[repr(C)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

/// ... for BPF_PROG_TEST_RUN.
#[repr(C)]
struct TestRun {
    prog_fd: u32,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
}

/// `struct bpf_insn` as one number.
fn instruction(code: u8, registers: u8, offset: i16, immediate: i32) -> u64 {
    u64::from(code)
        | u64::from(registers) << 8
        | u64::from(offset.cast_unsigned()) << 16
        | u64::from(immediate.cast_unsigned()) << 32
}

/// Puts a pointer to the map's element whose key is at r10-4 into `register`, or jumps so far: to the end.
fn first_element(map: &OwnedFd, register: u8, end: i16) -> [u64; 7] {
    [
        instruction(0xbf, 0xa2, 0, 0),
        instruction(0x07, 0x02, 0, -4),
        instruction(0x18, 0x11, 0, map.as_raw_fd()),
        instruction(0, 0, 0, 0),
        instruction(0x85, 0, 0, LOOKUP),
        instruction(0x15, 0x00, end, 0),
        instruction(0xbf, register, 0, 0),
    ]
}

fn array(map_flags: u32, max_entries: u32, value_size: u32) -> OwnedFd {
    let map_type = BPF_MAP_TYPE_ARRAY;
    let attributes =
        MapCreate { map_type, key_size: 4, value_size, max_entries, map_flags, ..MapCreate::default() };
    bpf(BPF_MAP_CREATE, &attributes).map(owned).unwrap()
}

/// A program that says that it runs, and runs until it is told to end.
struct Reader {
    program: OwnedFd,
    /// Whether it runs, and whether it is to end.
    flags: MappedArray,
}

impl Reader {
    fn load() -> Self {
        let (flags, bulk) = (array(BPF_F_MMAPABLE, 1, 16), array(0, 2, COPIED));
        // Registers are target and source, a digit each. Nothing but array look-ups and an update, in a bounded loop:
        // every kernel of ours takes it.
        let keys = [instruction(0x62, 0x0a, -4, 0), instruction(0x62, 0x0a, -8, 1)];
        // r6: the flags; r7: the element that is copied to the other one.
        let (flagged, copied) = (first_element(&flags, 0x06, 21), first_element(&bulk, 0x07, 14));
        let rest = [
            // It runs.
            instruction(0xb7, 0x08, 0, TURNS),
            instruction(0x7a, 0x06, 0, 1),
            // The loop: until it is to end, or has had its turns.
            instruction(0x79, 0x61, 8, 0),
            instruction(0x55, 0x01, 9, 0),
            instruction(0x18, 0x11, 0, bulk.as_raw_fd()),
            instruction(0, 0, 0, 0),
            instruction(0xbf, 0xa2, 0, 0),
            instruction(0x07, 0x02, 0, -8),
            instruction(0xbf, 0x73, 0, 0),
            instruction(0xb7, 0x04, 0, 0),
            instruction(0x85, 0, 0, UPDATE),
            instruction(0x07, 0x08, 0, -1),
            instruction(0x55, 0x08, -11, 0),
            // The end.
            instruction(0xb7, 0x00, 0, 0),
            instruction(0x95, 0, 0, 0),
        ];
        let instructions = [&keys[..], &flagged, &copied, &rest].concat();
        let attributes = ProgLoad {
            prog_type: BPF_PROG_TYPE_SOCKET_FILTER,
            insn_cnt: instructions.len() as u32,
            insns: instructions.as_ptr() as u64,
            license: c"GPL".as_ptr() as u64,
        };
        let program = bpf(BPF_PROG_LOAD, &attributes).map(owned).unwrap();
        let mut mapped = MappedArray::new(flags.as_fd(), 2).unwrap();
        mapped.reach(2).unwrap();
        Self { program, flags: mapped }
    }

    /// Runs the program once; returns when it has ended.
    fn run(&self) {
        let packet = [0_u8; 64];
        let attributes = TestRun {
            prog_fd: raw(self.program.as_fd()),
            retval: 0,
            data_size_in: packet.len() as u32,
            data_size_out: 0,
            data_in: packet.as_ptr() as u64,
            data_out: 0,
            repeat: 1,
            duration: 0,
        };
        bpf(BPF_PROG_TEST_RUN, &attributes).unwrap();
    }
}

#[test]
#[ignore = "needs root: run by cargo xtask test"]
fn a_grace_period_lasts_until_a_running_program_has_ended() {
    let grace = GracePeriod::new().unwrap();
    let reader = Reader::load();
    let before = Instant::now();
    grace.wait().unwrap();
    assert!(before.elapsed() < HELD, "a wait for nothing took {:?}", before.elapsed());
    thread::scope(|scope| {
        let running = scope.spawn(|| reader.run());
        while reader.flags[0].load(Ordering::Acquire) == 0 {
            assert!(!running.is_finished(), "the program did not run");
            thread::sleep(Duration::from_millis(1));
        }
        let wait = scope.spawn(|| grace.wait().unwrap());
        thread::sleep(HELD);
        let (waited, ran) = (!wait.is_finished(), !running.is_finished());
        reader.flags[1].store(1, Ordering::Release);
        assert!(ran, "the program's turns were over too soon to show anything");
        assert!(waited, "the grace period was over while a program ran");
    });
}
