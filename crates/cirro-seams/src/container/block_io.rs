//! Limits of block devices.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Limits of block devices.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BlockIo {
    /// Relative weight, 10 to 1000.
    pub weight: Option<u16>,
    /// Weights for single devices.
    pub weight_devices: Vec<DeviceLimit>,
    /// Bytes per second.
    pub read_bps: Vec<DeviceLimit>,
    /// Bytes per second.
    pub write_bps: Vec<DeviceLimit>,
    /// Operations per second.
    pub read_iops: Vec<DeviceLimit>,
    /// Operations per second.
    pub write_iops: Vec<DeviceLimit>,
}

/// A limit of one device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceLimit {
    /// The device's path on the host.
    pub path: PathBuf,
    /// The limit.
    pub value: u64,
}
