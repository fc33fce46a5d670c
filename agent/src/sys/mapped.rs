//! Memory-mapped BPF arrays as atomic words.
//!
//! Every page of an array counts as the process's memory from the moment it is mapped, used or not: the kernel fills the
//! whole mapping at once. So only the front of an array is mapped, in windows, as far as its owner has reached.

use std::{
    io,
    ops::Index,
    os::fd::{AsRawFd as _, BorrowedFd, OwnedFd},
    ptr::NonNull,
    sync::atomic::AtomicU64,
};

/// Bytes of a window: whole pages on every machine that we build for, large enough that mapping windows is rare (one holds
/// 4,096 backends), small enough that the unused rest of the last one does not count.
const WINDOW: usize = 64 << 10;
/// Words of a window.
const WORDS: usize = WINDOW / size_of::<u64>();

/// A `BPF_F_MMAPABLE` array, shared with the kernel. Only whole words can be read and written, which is what
/// the publish protocol rests on.
#[derive(Debug)]
pub(crate) struct MappedArray {
    map: OwnedFd,
    /// Words of the whole array.
    words: usize,
    /// The first of it.
    windows: Vec<Window>,
}

impl MappedArray {
    /// The array of `words` words behind `map`, of which nothing is mapped yet.
    pub(crate) fn new(map: BorrowedFd<'_>, words: usize) -> io::Result<Self> {
        Ok(Self { map: map.try_clone_to_owned()?, words, windows: Vec::new() })
    }

    /// Words of the whole array.
    pub(crate) fn len(&self) -> usize {
        self.words
    }

    /// Maps what is not mapped of the first `words` words, of which there are that many in the array. After a failure what
    /// was mapped before still is.
    pub(crate) fn reach(&mut self, words: usize) -> io::Result<()> {
        let windows = words.min(self.words).div_ceil(WORDS);
        while self.windows.len() < windows {
            let first = self.windows.len() * WORDS;
            self.windows.push(Window::new(&self.map, first, WORDS.min(self.words - first))?);
        }
        Ok(())
    }

    /// Unmaps what is behind the first `words` words.
    pub(crate) fn keep(&mut self, words: usize) {
        self.windows.truncate(words.div_ceil(WORDS));
    }
}

/// A word that was reached; any other index is out of bounds.
impl Index<usize> for MappedArray {
    type Output = AtomicU64;

    fn index(&self, word: usize) -> &AtomicU64 {
        &self.windows[word / WORDS].words()[word % WORDS]
    }
}

/// A part of an array, mapped.
#[derive(Debug)]
struct Window {
    start: NonNull<AtomicU64>,
    words: usize,
}

// SAFETY: the mapping is shared memory that is only accessed as atomics, and is unmapped once, on drop.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// Maps `words` words of the array behind `map`, from word `first` on, which begins a page.
    fn new(map: &OwnedFd, first: usize, words: usize) -> io::Result<Self> {
        let offset = libc::off_t::try_from(first * size_of::<u64>()).map_err(io::Error::other)?;
        // SAFETY: a fresh shared mapping at an address of the kernel's choice; the kernel checks offset and length
        // against the map's size.
        let start = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                words * size_of::<u64>(),
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_SHARED,
                map.as_raw_fd(),
                offset,
            )
        };
        if start == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let start = NonNull::new(start.cast()).ok_or_else(|| io::Error::from(io::ErrorKind::OutOfMemory))?;
        Ok(Self { start, words })
    }

    fn words(&self) -> &[AtomicU64] {
        // SAFETY: page-aligned, `words` long, mapped until drop; the other side (the programs) accesses it by
        // aligned loads only, and atomics tolerate any concurrent store.
        unsafe { std::slice::from_raw_parts(self.start.as_ptr(), self.words) }
    }
}

impl Drop for Window {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping made in `new`; no slice outlives `self`.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.words * size_of::<u64>()) };
    }
}
