//! Entries for fuzzing (`crates/cirro-fuzz`): whatever the text is, nothing panics.

use std::path::Path;

use crate::dockerfile;
use crate::expand::Expander;
use crate::ignore::Ignore;

/// Parses a Dockerfile and expands every line of it.
pub fn dockerfile(text: &str) {
    let _ = dockerfile::parse(text);
    let lookup = |name: &str| name.len().is_multiple_of(2).then(|| name.to_owned());
    let expander = Expander { lookup: &lookup, escape: '\\' };
    for line in text.lines() {
        let _ = expander.word(line);
        let _ = expander.words(line);
    }
}

/// Matches the first line of a text, as a path, against the rules in the rest.
pub fn ignore(text: &str) {
    let (path, rules) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(ignore) = Ignore::parse(rules) {
        let _ = ignore.ignores(path);
    }
}

/// Unpacks a build context in `directory`, which is there and empty.
pub fn context(bytes: &[u8], directory: &Path) {
    let context = directory.join("context");
    if std::fs::create_dir(&context).is_err() {
        return;
    }
    let _ = crate::unpack_context(&mut &bytes[..], &context);
    let left = std::fs::read_dir(directory).into_iter().flatten().count();
    assert_eq!(left, 1, "something was made beside the context");
    std::fs::remove_dir_all(&context).expect("a context can be removed");
}
