//! What an archive gives, held against what was read of it: a bomb is known by that.

use cirro_compression::Gauge;

use crate::error::{ImageError, invalid};
use crate::limits::Limits;

/// Bytes that were written of one archive.
pub(crate) struct Ratio {
    gauge: Gauge,
    highest: u64,
    floor: u64,
    written: u64,
}

impl Ratio {
    /// Begins with nothing written; `gauge` counts what is read.
    pub(crate) fn new(gauge: &Gauge, limits: &Limits) -> Self {
        Self { gauge: gauge.clone(), highest: limits.ratio, floor: limits.ratio_floor, written: 0 }
    }

    /// Returns the bytes that were written.
    pub(crate) fn written(&self) -> u64 {
        self.written
    }

    /// Counts bytes that were written; refuses more of what (`layer`, `archive`) grew too much.
    pub(crate) fn wrote(&mut self, bytes: usize, what: &str) -> Result<(), ImageError> {
        self.written += bytes as u64;
        if self.written > self.floor && self.written / self.highest > self.gauge.read() {
            return invalid(format!("{what}: one compressed byte gives more than {}", self.highest));
        }
        Ok(())
    }
}
