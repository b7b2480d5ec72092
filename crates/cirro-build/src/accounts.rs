//! Users and groups by name, from an image's own `/etc/passwd` and `/etc/group`.

use std::path::Path;

use crate::error::Refusal;
use crate::union::Union;

/// Bytes of a passwd or group file that we read.
const MAX_BYTES: u64 = 4 << 20;

/// A user and a group by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Owner {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

/// Reads `uid` or `uid:gid`; `None` if a name is in it.
pub(crate) fn by_number(text: &str) -> Option<Owner> {
    let (user, group) = text.split_once(':').unwrap_or((text, text));
    Some(Owner { uid: user.parse().ok()?, gid: group.parse().ok()? })
}

/// Resolves `user`, `user:group`, numbers or names, inside of `root`.
///
/// A user alone brings its own group; a number alone is the group's number too, as BuildKit has it.
pub(crate) fn resolve(root: &Union, text: &str) -> Result<Owner, Refusal> {
    if let Some(owner) = by_number(text) {
        return Ok(owner);
    }
    let (user, group) = match text.split_once(':') {
        Some((user, group)) => (user, Some(group)),
        None => (text, None),
    };
    let (uid, own_group) = match user.parse() {
        Ok(uid) => (uid, uid),
        Err(_) => {
            let fields = find(root, "/etc/passwd", user)?.ok_or_else(|| {
                Refusal::new(format!("can't find uid for user {user}: no such user: {user}"))
            })?;
            (number(&fields, 2)?, number(&fields, 3)?)
        }
    };
    let gid = match group.map(|group| (group, group.parse())) {
        None => own_group,
        Some((_, Ok(gid))) => gid,
        Some((group, Err(_))) => {
            let fields = find(root, "/etc/group", group)?.ok_or_else(|| {
                Refusal::new(format!("can't find gid for group {group}: no such group: {group}"))
            })?;
            number(&fields, 2)?
        }
    };
    Ok(Owner { uid, gid })
}

/// Finds the line that begins with `name` and returns its fields.
fn find(root: &Union, file: &str, name: &str) -> Result<Option<Vec<String>>, Refusal> {
    let bytes = root.read(Path::new(file), MAX_BYTES).map_err(Refusal::at(file))?.unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let line = text.lines().find(|line| line.split(':').next() == Some(name));
    Ok(line.map(|line| line.split(':').map(str::to_owned).collect()))
}

fn number(fields: &[String], at: usize) -> Result<u32, Refusal> {
    let field = fields.get(at).and_then(|field| field.trim().parse().ok());
    field.ok_or_else(|| Refusal::new(format!("invalid line of {}: no number in field {at}", fields[0])))
}
