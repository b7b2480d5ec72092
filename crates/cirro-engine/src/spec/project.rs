//! Keeps a container whose size is bounded in its project: root could move its files to another one with an ioctl.
//!
//! Refused is `FS_IOC_FSSETXATTR` (`chattr -p`); the call that does the same, `file_setattr`, is on nobody's list. The
//! kernel looks at the lower half of a command only, so comparing whole numbers would not do. Filters know
//! no "other than these bits": allowed is a command that differs in the first bit, or the second, and so on.

use serde_json::{Value, json};

const SET_ATTRIBUTES: u64 = 0x401c_5820;
const CALL: &str = "ioctl";

/// Takes the ioctl out of a filter's calls.
pub(crate) fn keep_project(filter: &mut Value) {
    let Some(rules) = filter.get_mut("syscalls").and_then(Value::as_array_mut) else { return };
    let mut taken = false;
    for rule in rules.iter_mut() {
        let whole = rule["args"].as_array().is_none_or(Vec::is_empty) && rule["action"] == "SCMP_ACT_ALLOW";
        if let Some(names) = rule.get_mut("names").and_then(Value::as_array_mut).filter(|_| whole) {
            let before = names.len();
            names.retain(|name| name != CALL);
            taken |= names.len() < before;
        }
    }
    rules.retain(|rule| rule["names"].as_array().is_none_or(|names| !names.is_empty()));
    if taken {
        rules.extend((0..32).map(|place| differs_at(1 << place)));
    }
}

fn differs_at(bit: u64) -> Value {
    let other = !SET_ATTRIBUTES & bit;
    let differs = json!([{ "index": 1, "value": bit, "valueTwo": other, "op": "SCMP_CMP_MASKED_EQ" }]);
    json!({ "names": [CALL], "action": "SCMP_ACT_ALLOW", "args": differs })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::seccomp::default_profile;

    /// Whether the filter lets this command through.
    fn allows(filter: &Value, command: u64) -> bool {
        let rules = filter["syscalls"].as_array().unwrap();
        let named = |rule: &&Value| rule["names"].as_array().unwrap().iter().any(|name| name == CALL);
        rules.iter().filter(named).any(|rule| {
            rule["args"].as_array().unwrap().iter().all(|arg| {
                let number = |key: &str| arg[key].as_u64().unwrap();
                command & number("value") == number("valueTwo")
            })
        })
    }

    #[test]
    fn one_command_is_taken_away_whatever_its_upper_half_is() {
        let mut filter = default_profile(&[]);
        assert!(allows(&filter, SET_ATTRIBUTES));
        keep_project(&mut filter);
        for command in [SET_ATTRIBUTES, SET_ATTRIBUTES | 1 << 40] {
            assert!(!allows(&filter, command));
        }
        for command in [0, 0x5401, 0x801c_581f, SET_ATTRIBUTES ^ 1, SET_ATTRIBUTES ^ 1 << 31, 0xffff_ffff] {
            assert!(allows(&filter, command), "{command:x}");
        }
    }

    #[test]
    fn a_filter_that_allows_no_ioctl_stays_so() {
        let mut filter =
            json!({ "syscalls": [{ "names": ["read"], "action": "SCMP_ACT_ALLOW", "args": [] }] });
        let before = filter.clone();
        keep_project(&mut filter);
        assert_eq!(filter, before);
    }
}
