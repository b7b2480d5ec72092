//! A disk that fails: the storage under redb in the tests of crashes.
//!
//! What is written lies in a cache until it is synced. At a power cut each sector that was written
//! since the last sync is kept or lost on its own, as [`FaultyDisk::cut_power`] draws it.

use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use redb::{Database, StorageBackend};

use crate::redb_file::RedbFile;

const SECTOR: usize = 512;
const SYNC_TIME: Duration = Duration::from_micros(200);

/// A disk; its clones are the same one.
#[derive(Debug, Clone)]
pub(crate) struct FaultyDisk(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    /// What is on the platter.
    synced: Vec<u8>,
    /// What reads see.
    cached: Vec<u8>,
    /// Since the last sync, in order.
    unsynced: Vec<Unsynced>,
    /// Writing operations until all fail; `None`: never.
    steps_left: Option<u64>,
    /// The sync with which all begins to fail.
    last_sync: Option<u64>,
    syncs: u64,
    /// Largest size; growing beyond fails.
    capacity: u64,
}

#[derive(Debug)]
enum Unsynced {
    Length(usize),
    Write(usize, Vec<u8>),
}

/// A small generator of numbers (xorshift64*), so that a failing seed can be tried again.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
}

impl FaultyDisk {
    pub(crate) fn new() -> Self {
        Self::of(Vec::new())
    }

    /// A disk with this content.
    pub(crate) fn of(content: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State {
            synced: content.clone(),
            cached: content,
            unsynced: Vec::new(),
            steps_left: None,
            last_sync: None,
            syncs: 0,
            capacity: u64::MAX,
        })))
    }

    /// Opens a database on the disk, again and again if need be.
    pub(crate) fn open(&self) -> Result<RedbFile, crate::StoreError> {
        let disk = self.clone();
        let open =
            move || Database::builder().set_cache_size(1 << 20).create_with_backend(Handle(disk.clone()));
        RedbFile::with("faulty disk".into(), Box::new(open))
    }

    /// Lets `steps` more writes, syncs and changes of length succeed, and none after.
    pub(crate) fn fail_after(&self, steps: u64) {
        self.state().steps_left = Some(steps);
    }

    /// Lets `syncs` more syncs succeed; the next one fails, and everything after it.
    pub(crate) fn fail_at_sync(&self, syncs: u64) {
        let mut state = self.state();
        state.last_sync = Some(state.syncs + syncs);
    }

    /// Ends all failures.
    pub(crate) fn mend(&self) {
        let mut state = self.state();
        state.last_sync = None;
        state.steps_left = None;
        state.capacity = u64::MAX;
    }

    /// Fills the disk up: the file cannot grow by more than `more` bytes.
    pub(crate) fn fill_up(&self, more: u64) {
        let mut state = self.state();
        state.capacity = state.cached.len() as u64 + more;
    }

    /// What the platter has after a power cut: of what was not synced, some sectors.
    pub(crate) fn cut_power(&self, dice: &mut Dice) -> Self {
        let state = self.state();
        // Now and then all of it was on its way already.
        if dice.roll(4) == 0 {
            return Self::of(state.cached.clone());
        }
        let mut content = state.synced.clone();
        for unsynced in &state.unsynced {
            match unsynced {
                Unsynced::Length(length) if dice.roll(2) == 0 => content.resize(*length, 0),
                Unsynced::Length(_) => {}
                Unsynced::Write(offset, data) => keep_some_sectors(&mut content, *offset, data, dice),
            }
        }
        Self::of(content)
    }

    /// The content, as after a clean stop.
    pub(crate) fn content(&self) -> Vec<u8> {
        self.state().cached.clone()
    }

    /// Number of syncs so far.
    pub(crate) fn syncs(&self) -> u64 {
        self.state().syncs
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
}

fn keep_some_sectors(content: &mut Vec<u8>, offset: usize, data: &[u8], dice: &mut Dice) {
    // All, none, or a lottery for each sector.
    let fate = dice.roll(4);
    let mut at = 0;
    while at < data.len() {
        let end = (at + SECTOR - (offset + at) % SECTOR).min(data.len());
        if fate == 0 || (fate > 1 && dice.roll(2) == 0) {
            if content.len() < offset + end {
                content.resize(offset + end, 0);
            }
            content[offset + at..offset + end].copy_from_slice(&data[at..end]);
        }
        at = end;
    }
}

impl State {
    fn step(&mut self) -> io::Result<()> {
        match &mut self.steps_left {
            Some(0) => Err(io::Error::other("the disk has failed")),
            Some(steps) => {
                *steps -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn check_capacity(&self, length: u64) -> io::Result<()> {
        match length > self.capacity && length > self.cached.len() as u64 {
            true => Err(ErrorKind::StorageFull.into()),
            false => Ok(()),
        }
    }
}

#[derive(Debug)]
struct Handle(FaultyDisk);

impl StorageBackend for Handle {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.state().cached.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.state();
        let offset = offset as usize;
        let found = state.cached.get(offset..offset + out.len()).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(found);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        let mut state = self.0.state();
        state.step()?;
        state.check_capacity(length)?;
        state.cached.resize(length as usize, 0);
        state.unsynced.push(Unsynced::Length(length as usize));
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut state = self.0.state();
        if state.last_sync == Some(state.syncs) {
            state.steps_left = Some(0);
        }
        state.step()?;
        // A sync takes its time: others come and wait meanwhile.
        std::thread::sleep(SYNC_TIME);
        state.syncs += 1;
        state.synced = state.cached.clone();
        state.unsynced.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut state = self.0.state();
        state.step()?;
        let (offset, end) = (offset as usize, offset as usize + data.len());
        state.check_capacity(end as u64)?;
        if state.cached.len() < end {
            state.cached.resize(end, 0);
        }
        state.cached[offset..end].copy_from_slice(data);
        state.unsynced.push(Unsynced::Write(offset, data.to_vec()));
        Ok(())
    }
}
