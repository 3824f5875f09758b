//! A page of memory that a process shares with the children it forks.

use std::io;
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

/// Number of 64-bit words in the page.
pub const WORDS: usize = PAGE_BYTES / 8;

/// Bytes of the page: the smallest page of the platforms that PostgreSQL runs on.
const PAGE_BYTES: usize = 4096;

/// One zeroed anonymous page, mapped `MAP_SHARED`: children made by `fork` see the same memory.
#[derive(Debug)]
pub struct SharedPage {
    start: NonNull<[AtomicU64; WORDS]>,
}

impl SharedPage {
    /// Maps a page.
    pub fn new() -> io::Result<Self> {
        // SAFETY: the kernel chooses the place of a new mapping, so no memory in use is touched.
        let start = unsafe {
            mmap_anonymous(
                std::ptr::null_mut(),
                PAGE_BYTES,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::SHARED | MapFlags::POPULATE,
            )
        }?;
        NonNull::new(start.cast())
            .map(|start| Self { start })
            .ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))
    }

    /// The words of the page.
    #[must_use]
    pub fn words(&self) -> &[AtomicU64; WORDS] {
        // SAFETY: the mapping is page-aligned, `WORDS` words long, zeroed (a valid value of the atomics), and lives until
        // `drop`; it is never accessed but through atomics, in this process or another.
        unsafe { self.start.as_ref() }
    }
}

impl Drop for SharedPage {
    fn drop(&mut self) {
        // SAFETY: `start` is a mapping of this length made by `new`; `words` cannot outlive `self`.
        // An error would mean that it is not mapped; then there is nothing to give back.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), PAGE_BYTES) };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;

    use super::SharedPage;

    #[test]
    fn a_new_page_is_zero_and_keeps_what_is_stored() {
        let page = SharedPage::new().unwrap();
        assert!(page.words().iter().all(|word| word.load(Ordering::SeqCst) == 0));
        page.words()[7].store(u64::MAX, Ordering::SeqCst);
        assert_eq!(page.words()[7].load(Ordering::SeqCst), u64::MAX);
    }
}
