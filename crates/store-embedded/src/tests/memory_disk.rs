use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::disk::{Disk, DiskFile};

/// The unit that a disk writes whole or not at all.
const SECTOR_BYTES: usize = 512;

/// What a crash leaves of writes that were not synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Crash {
    /// Nothing.
    Forget,
    /// Some sectors of them, chosen by this seed.
    Tear(u64),
}

#[derive(Debug, Default)]
struct Inode {
    now: Vec<u8>,
    durable: Vec<u8>,
    unsynced: Vec<(usize, Vec<u8>)>,
}

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: BTreeMap<String, usize>,
    durable_names: BTreeMap<String, usize>,
    /// Handles of an earlier life are dead, as those of a killed process.
    life: u64,
    /// Syncs of files with such a name, or of the directory (""), do nothing although they say yes.
    lying: Option<&'static str>,
    full: bool,
    failing: bool,
    delay: Duration,
    syncs: u64,
}

/// A disk in memory that forgets what was not synced. Clones are the same disk.
#[derive(Debug, Clone, Default)]
pub(super) struct MemoryDisk {
    state: Arc<Mutex<State>>,
    life: u64,
}

impl MemoryDisk {
    fn locked(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn alive(&self) -> io::Result<MutexGuard<'_, State>> {
        let state = self.locked();
        if state.life == self.life { Ok(state) } else { Err(io::Error::other("a handle from before the crash")) }
    }

    /// Makes syncs of one kind of file lie: the mistake that the tests must notice.
    pub(super) fn lie_about(&self, prefix: &'static str) {
        self.locked().lying = Some(prefix);
    }

    /// From now on nothing can be allocated.
    pub(super) fn set_full(&self, full: bool) {
        self.locked().full = full;
    }

    /// From now on syncs fail, or not any more.
    pub(super) fn set_failing(&self, failing: bool) {
        self.locked().failing = failing;
    }

    /// From now on syncs take so long.
    pub(super) fn set_delay(&self, delay: Duration) {
        self.locked().delay = delay;
    }

    /// How many syncs there were.
    pub(super) fn syncs(&self) -> u64 {
        self.locked().syncs
    }

    /// Flips a bit of a file, also on the durable side.
    pub(super) fn flip(&self, name: &str, offset: usize) {
        let mut state = self.locked();
        let inode = state.names[name];
        state.inodes[inode].now[offset] ^= 1;
        state.inodes[inode].durable[offset] ^= 1;
    }

    /// Stops the host and starts it again: the disk as it is found then. Earlier handles are dead.
    pub(super) fn crash(&self, crash: Crash) -> Self {
        let mut guard = self.locked();
        let state = &mut *guard;
        let mut seed = if let Crash::Tear(seed) = crash { seed | 1 } else { 0 };
        let mut toss = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed & 2 != 0
        };
        for inode in &mut state.inodes {
            for (offset, bytes) in std::mem::take(&mut inode.unsynced) {
                for (number, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
                    let start = offset + number * SECTOR_BYTES;
                    if matches!(crash, Crash::Tear(_)) && toss() {
                        let end = start + sector.len();
                        if inode.durable.len() < end {
                            inode.durable.resize(end, 0);
                        }
                        inode.durable[start..end].copy_from_slice(sector);
                    }
                }
            }
            inode.now.clone_from(&inode.durable);
        }
        state.names.clone_from(&state.durable_names);
        state.life += 1;
        Self { state: Arc::clone(&self.state), life: state.life }
    }
}

impl Disk for MemoryDisk {
    fn names(&self) -> io::Result<Vec<String>> {
        Ok(self.alive()?.names.keys().cloned().collect())
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let inode = *self.alive()?.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(MemoryFile { disk: self.clone(), name: name.to_owned(), inode }))
    }

    fn create(&self, name: &str, size: u64) -> io::Result<Arc<dyn DiskFile>> {
        let mut state = self.alive()?;
        if state.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let zeros = vec![0; usize::try_from(size).unwrap()];
        state.inodes.push(Inode { now: zeros.clone(), durable: zeros, unsynced: Vec::new() });
        let inode = state.inodes.len() - 1;
        state.names.insert(name.to_owned(), inode);
        drop(state);
        self.open(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut state = self.alive()?;
        let inode = state.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        state.names.insert(to.to_owned(), inode);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.alive()?.names.remove(name).map(drop).ok_or(io::ErrorKind::NotFound.into())
    }

    fn sync_directory(&self) -> io::Result<()> {
        let mut state = self.alive()?;
        if state.lying != Some("") {
            let names = state.names.clone();
            state.durable_names = names;
        }
        Ok(())
    }
}

#[derive(Debug)]
struct MemoryFile {
    disk: MemoryDisk,
    name: String,
    inode: usize,
}

impl DiskFile for MemoryFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.disk.alive()?.inodes[self.inode].now.len() as u64)
    }

    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<()> {
        let state = self.disk.alive()?;
        let start = usize::try_from(offset).unwrap();
        let bytes =
            state.inodes[self.inode].now.get(start..start + buffer.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        buffer.copy_from_slice(bytes);
        Ok(())
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let mut state = self.disk.alive()?;
        let start = usize::try_from(offset).unwrap();
        let end = start + bytes.len();
        let full = state.full;
        let inode = &mut state.inodes[self.inode];
        if inode.now.len() < end {
            if full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            inode.now.resize(end, 0);
        }
        inode.now[start..end].copy_from_slice(bytes);
        inode.unsynced.push((start, bytes.to_vec()));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        let delay = self.disk.locked().delay;
        // waits: this is how long the slow disk takes
        std::thread::sleep(delay);
        let mut state = self.disk.alive()?;
        if state.failing {
            return Err(io::Error::other("the test's disk fails"));
        }
        state.syncs += 1;
        if state.lying.is_none_or(|prefix| prefix.is_empty() || !self.name.starts_with(prefix)) {
            let inode = &mut state.inodes[self.inode];
            inode.durable.clone_from(&inode.now);
            inode.unsynced.clear();
        }
        Ok(())
    }
}
