//! Users of an image, by its own `/etc/passwd` and `/etc/group`.
//!
//! getpwnam is never called: it would read the host's files, and a static glibc dies in NSS.
//! Source: runc `libcontainer/user`.

use std::collections::BTreeSet;

use crate::error::EngineError;

/// Longest passwd or group file that is read.
pub(crate) const MAX_FILE: u64 = 4 << 20;

/// Who a process runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct User {
    pub uid: u32,
    pub gid: u32,
    pub groups: Vec<u32>,
    pub home: String,
}

struct Account<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

fn accounts(passwd: &str) -> impl Iterator<Item = Account<'_>> {
    passwd.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _) = (fields.next()?, fields.next()?);
        let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
        let _comment = fields.next();
        Some(Account { name, uid, gid, home: fields.next().unwrap_or("/") })
    })
}

/// Yields name, number and members of each group.
fn groups(group: &str) -> impl Iterator<Item = (&str, u32, &str)> {
    group.lines().filter_map(|line| {
        let mut fields = line.split(':');
        let (name, _) = (fields.next()?, fields.next()?);
        Some((name, fields.next()?.parse().ok()?, fields.next().unwrap_or("")))
    })
}

fn number(text: &str) -> Option<u32> {
    text.parse().ok().filter(|number| *number <= i32::MAX as u32)
}

/// Finds who `user[:group]` is (root when empty); `more` groups are added.
pub(crate) fn resolve(user: &str, more: &[u32], passwd: &str, group: &str) -> Result<User, EngineError> {
    let (name, wanted_group) = match user.split_once(':') {
        Some((name, group)) => (name, (!group.is_empty()).then_some(group)),
        None => (user, None),
    };
    let name = if name.is_empty() { "0" } else { name };
    let account = accounts(passwd).find(|account| account.name == name || number(name) == Some(account.uid));
    let mut found = match (account.as_ref(), number(name)) {
        (Some(account), _) => {
            User { uid: account.uid, gid: account.gid, groups: Vec::new(), home: account.home.into() }
        }
        (None, Some(uid)) => User { uid, gid: 0, groups: Vec::new(), home: "/".into() },
        (None, None) => {
            let text = format!("unable to find user {name}: no matching entries in passwd file");
            return Err(EngineError::Invalid(text));
        }
    };
    if found.home.is_empty() {
        found.home = "/".into();
    }
    let mut supplementary: BTreeSet<u32> = more.iter().copied().collect();
    match (wanted_group, account) {
        (Some(wanted), _) => found.gid = group_number(wanted, group)?,
        (None, Some(account)) => supplementary.extend(
            groups(group)
                .filter(|(_, _, members)| members.split(',').any(|member| member.trim() == account.name))
                .map(|(_, gid, _)| gid),
        ),
        (None, None) => {}
    }
    // The primary group too, lest rights that a file denies to its group are not denied (CVE-2022-36109).
    supplementary.insert(found.gid);
    found.groups = supplementary.into_iter().collect();
    Ok(found)
}

/// Adds groups by name or number to a user's.
pub(crate) fn add_groups(user: &mut User, names: &[String], group: &str) -> Result<(), EngineError> {
    for name in names {
        let found = groups(group).find(|(known, _, _)| known == name).map(|(_, gid, _)| gid);
        let gid = found.or_else(|| number(name)).ok_or_else(|| {
            EngineError::Invalid(format!("Unable to find group {name}: no matching entries in group file"))
        })?;
        if !user.groups.contains(&gid) {
            user.groups.push(gid);
        }
    }
    user.groups.sort_unstable();
    Ok(())
}

fn group_number(wanted: &str, group: &str) -> Result<u32, EngineError> {
    if let Some((_, gid, _)) = groups(group).find(|(name, _, _)| *name == wanted) {
        return Ok(gid);
    }
    number(wanted).ok_or_else(|| {
        EngineError::Invalid(format!("unable to find group {wanted}: no matching entries in group file"))
    })
}

/// Finds the name of a user id, for people who read process lists.
pub(crate) fn name_of(uid: u32, passwd: &str) -> Option<&str> {
    accounts(passwd).find(|account| account.uid == uid).map(|account| account.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nbroken\nweb:x:33:34:www:/var/www:/bin/false\n";
    const GROUP: &str = "root:x:0:\nweb:x:34:\ndisk:x:6:root,web\naudio:x:29:web\n";

    fn user(text: &str) -> User {
        resolve(text, &[], PASSWD, GROUP).unwrap()
    }

    #[test]
    fn names_and_numbers_are_found_with_their_groups() {
        assert_eq!(user(""), User { uid: 0, gid: 0, groups: vec![0, 6], home: "/root".into() });
        assert_eq!(user("web"), User { uid: 33, gid: 34, groups: vec![6, 29, 34], home: "/var/www".into() });
        assert_eq!(user("33"), user("web"));
        assert_eq!(user("1000"), User { uid: 1000, gid: 0, groups: vec![0], home: "/".into() });
    }

    #[test]
    fn a_named_group_replaces_the_others() {
        assert_eq!(user("web:audio").gid, 29);
        assert_eq!(user("web:audio").groups, [29]);
        assert_eq!(user("1000:2000").gid, 2000);
        assert_eq!(resolve("web:", &[7, 6], PASSWD, GROUP).unwrap().groups, [6, 7, 29, 34]);
    }

    #[test]
    fn groups_are_added_by_name_or_number() {
        let mut web = user("web");
        add_groups(&mut web, &["disk".into(), "1234".into(), "audio".into()], GROUP).unwrap();
        assert_eq!(web.groups, [6, 29, 34, 1234]);
        let error = add_groups(&mut web, &["nobody".into()], GROUP).unwrap_err();
        assert_eq!(error.to_string(), "Unable to find group nobody: no matching entries in group file");
    }

    #[test]
    fn unknown_names_are_refused_with_dockers_words() {
        let error = resolve("nobody", &[], PASSWD, GROUP).unwrap_err();
        assert_eq!(error.to_string(), "unable to find user nobody: no matching entries in passwd file");
        let error = resolve("0:nobody", &[], PASSWD, GROUP).unwrap_err();
        assert_eq!(error.to_string(), "unable to find group nobody: no matching entries in group file");
        assert!(resolve("-1", &[], "", "").is_err());
    }

    #[test]
    fn an_image_without_files_has_root() {
        assert_eq!(resolve("", &[], "", "").unwrap().home, "/");
    }
}
