use proptest::prelude::*;

use super::*;

fn ignores(rules: &str, path: &str) -> bool {
    Ignore::parse(rules).unwrap().ignores(path)
}

#[test]
fn rules_are_read_as_docker_reads_them() {
    let cases = [
        ("", "a", false),
        ("a", "a", true),
        ("a", "b", false),
        ("a", "a/b/c", true),
        ("a", "x/a", false),
        ("/a", "a", true),
        ("a/", "a/b", true),
        ("./a", "a", true),
        ("a/../b", "b", true),
        ("# a", "# a", false),
        (" # a", "# a", true),
        ("  a  ", "a", true),
        ("\u{feff}a", "a", true),
        ("a\r\nb", "a", true),
        ("node_modules", "node_modules/x/y", true),
        ("node_modules", "packages/p/node_modules", false),
        ("**/node_modules", "packages/p/node_modules/x", true),
        ("*.md", "README.md", true),
        ("*.md", "docs/README.md", false),
        ("*/temp*", "a/temporary/x", true),
        ("*/*/temp*", "a/temporary", false),
        ("*.md\n!README.md", "README.md", false),
        ("!README.md\n*.md", "README.md", true),
        ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
        ("docs\n!docs/README.md", "docs/README.md", false),
        ("docs\n!docs/README.md", "docs/other", true),
        ("*\n!src", "src/deep/file", false),
        ("*\n! src", "src/deep/file", false),
        ("**\n!src/**/*.rs", "src/a/b.rs", false),
        ("**\n!src/**/*.rs", "src/a/b.c", true),
        ("Dockerfile\n.dockerignore", ".dockerignore", true),
    ];
    for (rules, path, want) in cases {
        assert_eq!(ignores(rules, path), want, "{rules:?} {path}");
    }
}

#[test]
fn a_wrong_rule_names_its_line() {
    assert_eq!(Ignore::parse("a\n\n[").unwrap_err(), "line 3: syntax error in pattern \"[\"");
    assert_eq!(Ignore::parse("!").unwrap_err(), "line 1: illegal exclusion pattern: \"!\"");
}

/// What a pattern means, written down as plainly as possible; exponential, for short texts only.
fn reference(pattern: &[char], text: &[char]) -> bool {
    match pattern {
        [] => text.is_empty(),
        ['*', '*', '/', rest @ ..] => {
            let deeper = (0..text.len()).any(|at| text[at] == '/' && reference(rest, &text[at + 1..]));
            rest.is_empty() || deeper || reference(rest, text)
        }
        ['*', '*'] => true,
        ['*', '*', rest @ ..] => {
            let deeper = (0..text.len()).any(|at| text[at] == '/' && reference(rest, &text[at + 1..]));
            deeper || reference(rest, text)
        }
        ['*', rest @ ..] => {
            let end = text.iter().position(|c| *c == '/').unwrap_or(text.len());
            (0..=end).any(|at| reference(rest, &text[at..]))
        }
        ['?', rest @ ..] => text.first().is_some_and(|c| *c != '/') && reference(rest, &text[1..]),
        [c, rest @ ..] => text.first() == Some(c) && reference(rest, &text[1..]),
    }
}

fn reference_ignores(rules: &[(bool, String)], path: &str) -> bool {
    let parts: Vec<&str> = path.split('/').collect();
    let mut ignored = false;
    for (exception, pattern) in rules {
        let pattern: Vec<char> = pattern.chars().collect();
        let parent = |length: usize| parts[..length].join("/").chars().collect::<Vec<_>>();
        if (1..=parts.len()).any(|length| reference(&pattern, &parent(length))) {
            ignored = !exception;
        }
    }
    ignored
}

proptest! {
    #[test]
    fn the_matcher_agrees_with_the_plain_meaning(
        rules in prop::collection::vec((any::<bool>(), "(a|b|\\*|\\?|/a|/\\*\\*/|/\\*){1,5}"), 0..5),
        path in "[ab](/?[ab]){0,6}",
    ) {
        // A star at the start of a run of stars would be a pattern of its own sort; see the table of `pattern`.
        let rules: Vec<(bool, String)> = rules
            .into_iter()
            .map(|(exception, pattern)| (exception, clean(&pattern)))
            .filter(|(_, pattern)| !pattern.starts_with("**") && !pattern.contains("***"))
            .collect();
        let text: Vec<String> =
            rules.iter().map(|(exception, pattern)| format!("{}{pattern}", if *exception { "!" } else { "" })).collect();
        prop_assert_eq!(ignores(&text.join("\n"), &path), reference_ignores(&rules, &path), "{:?} {}", rules, path);
    }

    #[test]
    fn the_last_rule_that_matches_wins(path in "[ab](/[ab]){0,4}", rules in prop::collection::vec("!?[ab](/[ab]){0,2}", 0..6)) {
        let text = rules.join("\n");
        let taken = format!("{text}\n{path}");
        prop_assert!(ignores(&taken, &path));
        let back = format!("{text}\n!{path}");
        prop_assert!(!ignores(&back, &path));
    }

    #[test]
    fn no_text_makes_the_rules_panic(text in "[ab*?!#/\\[\\]\\\\^ \n-]{0,40}", path in "[ab/]{0,12}") {
        if let Ok(ignore) = Ignore::parse(&text) {
            ignore.ignores(&path);
        }
    }
}
