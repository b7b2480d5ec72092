//! What a request must be like, looked at before anything is made.

use crate::{BootRequest, MachineError};

/// The kernel, unpacked, and its first file system need this much.
const MIN_MEMORY: u64 = 128 << 20;
const MAX_USER_DATA: usize = 16 * 1024;
/// Virtual processors for each of the host's.
const CPUS_PER_CORE: u32 = 4;

/// Checks a request of a host with `cores` processors.
pub(crate) fn request(request: &BootRequest, cores: u32) -> Result<(), MachineError> {
    id(&request.id)?;
    file_name("image", &request.image)?;
    let invalid = |text: String| Err(MachineError::Invalid(text));
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
    if request.hostname.is_empty() || request.hostname.len() > 63 || !request.hostname.chars().all(plain) {
        return invalid("host name: want 1 to 63 letters, digits, dashes or dots".into());
    }
    if request.memory < MIN_MEMORY {
        return invalid(format!("memory: want at least {} MiB", MIN_MEMORY >> 20));
    }
    let most = cores.saturating_mul(CPUS_PER_CORE);
    if request.cpu == 0 || request.cpu > most {
        return invalid(format!("cpu: want 1 to {most} on this host"));
    }
    if !(576..=65_535).contains(&request.mtu) {
        return invalid(format!("MTU {}: want 576 to 65535", request.mtu));
    }
    if request.user_data.as_ref().is_some_and(|data| data.len() > MAX_USER_DATA) {
        return invalid(format!("user data: want at most {} KiB", MAX_USER_DATA / 1024));
    }
    Ok(())
}

/// Checks a machine's id, which becomes a file's name.
pub(crate) fn id(id: &str) -> Result<(), MachineError> {
    file_name("machine id", id)
}

fn file_name(what: &str, name: &str) -> Result<(), MachineError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || name.len() > 100 || name.starts_with('.') || !name.chars().all(plain) {
        let shown: String = name.chars().take(40).collect();
        return Err(MachineError::Invalid(format!("{what} `{shown}` cannot name a file")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(change: impl FnOnce(&mut BootRequest)) -> bool {
        let mut boot = BootRequest {
            id: "web-1".into(),
            hostname: "web".into(),
            cpu: 1,
            memory: 128 << 20,
            command: crate::GuestCommand::default(),
            image: "ab12".into(),
            layers: Vec::new(),
            tap: std::fs::File::open("/dev/null").unwrap().into(),
            mac: cirro_types::MacAddress([2, 0, 0, 0, 0, 1]),
            mtu: 1500,
            user_data: None,
        };
        change(&mut boot);
        request(&boot, 2).is_err()
    }

    #[test]
    fn requests_out_of_range_are_refused() {
        assert!(!refused(|_| ()));
        assert!(!refused(|boot| boot.cpu = 8));
        assert!(refused(|boot| boot.cpu = 9));
        assert!(refused(|boot| boot.cpu = 0));
        assert!(refused(|boot| boot.memory -= 1));
        assert!(refused(|boot| boot.mtu = 100));
        assert!(!refused(|boot| boot.user_data = Some("x".repeat(16 * 1024))));
        assert!(refused(|boot| boot.user_data = Some("x".repeat(16 * 1024 + 1))));
        for id in ["", "../x", "a/b", ".hidden", "a b", "ü"] {
            assert!(refused(|boot| boot.id = id.into()), "{id}");
            assert!(refused(|boot| boot.image = id.into()), "{id}");
            assert!(refused(|boot| boot.hostname = format!("{id}\n")), "{id}");
        }
    }
}
