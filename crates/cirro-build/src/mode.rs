//! `--chmod`: octal, or symbolic as chmod(1) has it.

use std::sync::Arc;

use crate::error::Refusal;

const SPECIAL: u32 = 0o7000;
/// Changes in one expression.
const MAX_CHANGES: usize = 64;

/// What is done to a mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum ModeChange {
    /// It becomes this.
    Set(u32),
    /// These are done to it, one after the other.
    Symbolic(Arc<[Change]>),
}

/// One operation of a symbolic mode: whom it is for, what is done, and which bits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// Bits of the classes that are meant, `0o4700` for `u`.
    classes: u32,
    operation: char,
    permissions: Vec<char>,
}

impl ModeChange {
    /// Reads what `--chmod` says.
    pub(crate) fn parse(text: &str) -> Result<Self, Refusal> {
        let wrong = || {
            Refusal::new(format!(
                "invalid chmod parameter: '{text}'. it should be octal string and between 0 and 07777, or a symbolic mode"
            ))
        };
        if text.bytes().all(|byte| byte.is_ascii_digit()) {
            let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
            return mode.map(Self::Set).ok_or_else(wrong);
        }
        let mut changes = Vec::new();
        for clause in text.split(',') {
            let classes_end = clause.find(['+', '-', '=']).ok_or_else(wrong)?;
            let mut classes = 0;
            for class in clause[..classes_end].chars() {
                classes |= match class {
                    'u' => 0o4700,
                    'g' => 0o2070,
                    'o' => 0o1007,
                    'a' => 0o7777,
                    _ => return Err(wrong()),
                };
            }
            // Without a class all are meant; the umask of a build is nobody's.
            let classes = if classes == 0 { 0o7777 } else { classes };
            for operation in clause[classes_end..].chars() {
                match operation {
                    '+' | '-' | '=' => changes.push(Change { classes, operation, permissions: Vec::new() }),
                    'r' | 'w' | 'x' | 'X' | 's' | 't' | 'u' | 'g' | 'o' => {
                        changes.last_mut().ok_or_else(wrong)?.permissions.push(operation);
                    }
                    _ => return Err(wrong()),
                }
            }
            if changes.len() > MAX_CHANGES {
                return Err(wrong());
            }
        }
        Ok(Self::Symbolic(changes.into()))
    }

    /// Returns the mode that something of mode `mode` gets.
    pub(crate) fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        match self {
            Self::Set(mode) => *mode,
            Self::Symbolic(changes) => {
                changes.iter().fold(mode & 0o7777, |mode, change| change.apply(mode, is_directory))
            }
        }
    }
}

impl Change {
    fn apply(&self, mode: u32, is_directory: bool) -> u32 {
        let bits = self.permissions.iter().fold(0, |bits, permission| {
            bits | match permission {
                'r' => 0o444,
                'w' => 0o222,
                'x' => 0o111,
                'X' if is_directory || mode & 0o111 != 0 => 0o111,
                's' => 0o6000,
                't' => 0o1000,
                'u' => spread(mode >> 6),
                'g' => spread(mode >> 3),
                'o' => spread(mode),
                _ => 0,
            }
        });
        // The sticky bit is set for all or for others; a class that names another leaves it.
        let bits = bits & self.classes;
        match self.operation {
            '+' => mode | bits,
            '-' => mode & !bits,
            // What a directory has of special bits stays, as with GNU's chmod.
            _ if is_directory => (mode & (!self.classes | SPECIAL)) | bits,
            _ => (mode & !self.classes) | bits,
        }
    }
}

/// Gives every class what one has.
fn spread(class: u32) -> u32 {
    (class & 7) * 0o111
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changed(text: &str, mode: u32, is_directory: bool) -> u32 {
        ModeChange::parse(text).unwrap().apply(mode, is_directory)
    }

    #[test]
    fn octal_modes_are_set_whatever_was() {
        assert_eq!(changed("755", 0o600, false), 0o755);
        assert_eq!(changed("04711", 0o600, false), 0o4711);
    }

    #[test]
    fn symbolic_modes_do_what_chmod_does() {
        for (text, mode, expected) in [
            ("u=rwX,go=rX", 0o640, 0o644),
            ("u=rwX,go=rX", 0o740, 0o755),
            ("+x", 0o644, 0o755),
            ("a-w", 0o666, 0o444),
            ("g=u", 0o640, 0o660),
            ("u+s,o+t", 0o755, 0o5755),
            ("go=", 0o777, 0o700),
            ("u+x-w", 0o644, 0o544),
            ("o+X", 0o600, 0o600),
        ] {
            assert_eq!(changed(text, mode, false), expected, "{text} on {mode:o}");
        }
        assert_eq!(changed("a=rX", 0o700, true), 0o555);
        assert_eq!(changed("u=rwx", 0o2755, true), 0o2755);
    }

    #[test]
    fn what_is_neither_is_refused() {
        for text in ["", "9", "077777", "u", "z=r", "u=q", "rwx", "u=r,"] {
            assert!(ModeChange::parse(text).is_err(), "{text}");
        }
    }
}
