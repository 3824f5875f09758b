//! The page of memory that both guards see, so that each can enforce the deadline without the other.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};

use pgbaton_sys::shared::SharedPage;

/// Words of the page. All are written by the inner guard, and read by the outer one; the outer one resets them when no
/// process is left below it.
#[derive(Debug)]
pub(crate) struct Page {
    memory: SharedPage,
}

/// Marks a verdict as given, so that exit code 0 differs from none.
const GIVEN: u64 = 0x100;

impl Page {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self { memory: SharedPage::new()? })
    }

    fn word(&self, place: usize) -> &AtomicU64 {
        &self.memory.words()[place]
    }

    /// The deadline held, if any: nanoseconds on `CLOCK_BOOTTIME`. One word, so that it is never seen half written.
    pub(crate) fn deadline(&self) -> Option<u64> {
        Some(self.word(0).load(Ordering::SeqCst)).filter(|deadline| *deadline != 0)
    }

    pub(crate) fn set_deadline(&self, deadline: Option<u64>) {
        self.word(0).store(deadline.unwrap_or(0), Ordering::SeqCst);
    }

    /// Highest epoch ever held; outlives an inner guard, and only grows.
    pub(crate) fn epoch(&self) -> u64 {
        self.word(1).load(Ordering::SeqCst)
    }

    pub(crate) fn set_epoch(&self, epoch: u64) {
        self.word(1).fetch_max(epoch, Ordering::SeqCst);
    }

    /// Whether a process of a server may exist: set before one is started, cleared when none is left.
    pub(crate) fn tree_alive(&self) -> bool {
        self.word(2).load(Ordering::SeqCst) != 0
    }

    pub(crate) fn set_tree_alive(&self, alive: bool) {
        self.word(2).store(u64::from(alive), Ordering::SeqCst);
    }

    /// When the inner guard last sent SIGKILL to all that it saw of the server; zero for never.
    pub(crate) fn last_kill(&self) -> u64 {
        self.word(3).load(Ordering::SeqCst)
    }

    pub(crate) fn set_last_kill(&self, now: u64) {
        self.word(3).store(now, Ordering::SeqCst);
    }

    /// The exit code that the guard is to end with, once the inner guard has come to it.
    pub(crate) fn verdict(&self) -> Option<u8> {
        let word = self.word(4).load(Ordering::SeqCst);
        (word & GIVEN != 0).then(|| word.to_le_bytes()[0])
    }

    pub(crate) fn set_verdict(&self, code: u8) {
        self.word(4).store(GIVEN | u64::from(code), Ordering::SeqCst);
    }

    /// Whether an agent of this guard was ever ready.
    pub(crate) fn ready(&self) -> bool {
        self.word(5).load(Ordering::SeqCst) != 0
    }

    pub(crate) fn set_ready(&self) {
        self.word(5).store(1, Ordering::SeqCst);
    }

    /// Whether the server was left running: the outer guard ends without it.
    pub(crate) fn left(&self) -> bool {
        self.word(6).load(Ordering::SeqCst) != 0
    }

    pub(crate) fn set_left(&self) {
        self.word(6).store(1, Ordering::SeqCst);
    }

    /// Forgets the server and its deadline. Only when no process is left.
    pub(crate) fn forget_server(&self) {
        self.set_deadline(None);
        self.set_tree_alive(false);
    }
}

#[cfg(test)]
mod tests {
    use super::Page;

    #[test]
    fn words_do_not_overlap_and_the_epoch_only_grows() {
        let page = Page::new().unwrap();
        assert_eq!((page.deadline(), page.epoch(), page.verdict()), (None, 0, None));
        assert!(!page.tree_alive() && !page.ready() && !page.left());
        page.set_deadline(Some(7));
        page.set_epoch(5);
        page.set_epoch(3);
        page.set_tree_alive(true);
        page.set_last_kill(9);
        page.set_verdict(0);
        page.set_ready();
        assert!(!page.left());
        page.set_left();
        assert!(page.left());
        assert_eq!((page.deadline(), page.epoch(), page.last_kill()), (Some(7), 5, 9));
        assert_eq!(page.verdict(), Some(0));
        page.forget_server();
        assert_eq!((page.deadline(), page.epoch(), page.tree_alive(), page.ready()), (None, 5, false, true));
    }
}
