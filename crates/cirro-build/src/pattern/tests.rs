use super::*;

fn matches(pattern: &str, text: &str, wildcards: Wildcards) -> Option<bool> {
    Some(Pattern::parse(pattern, wildcards).ok()?.matches(text))
}

#[test]
fn paths_match_as_in_go() {
    let cases = [
        ("abc", "abc", true),
        ("abc", "abcd", false),
        ("*", "abc", true),
        ("*", "", true),
        ("*", "a/b", false),
        ("*.js", "index.js", true),
        ("*.js", ".js", true),
        ("a*b*c", "a--b--b-c", true),
        ("a*b*c", "a--c", false),
        ("a?c", "a☺c", true),
        ("a?c", "a/c", false),
        ("a?c", "ac", false),
        ("[a-c]x", "bx", true),
        ("[a-c]x", "dx", false),
        ("[^a-c]x", "dx", true),
        ("[^a-c]x", "bx", false),
        ("[abc-e]", "d", true),
        ("[\\]]", "]", true),
        ("[\\-a]", "-", true),
        ("\\*", "*", true),
        ("\\*", "x", false),
        ("a/*/c", "a/b/c", true),
        ("**", "ab", true),
        ("**", "a/b", false),
    ];
    for (pattern, text, want) in cases {
        assert_eq!(matches(pattern, text, Wildcards::Path), Some(want), "{pattern} {text}");
    }
}

#[test]
fn two_stars_cross_directories_in_ignore_files() {
    let cases = [
        ("**", "a", true),
        ("**", "a/b/c", true),
        ("**/b", "b", true),
        ("**/b", "a/x/b", true),
        ("**/b", "a/xb", false),
        ("a/**", "a/b/c", true),
        ("a/**", "a", false),
        ("a/**/c", "a/c", true),
        ("a/**/c", "a/b/b/c", true),
        ("a/**/c", "ac", false),
        ("a**/c", "a/b/c", true),
        ("**/*.go", "x/y.go", true),
        ("**/*.go", "y.go", true),
        ("**/**/*.go", "x/y/z.go", true),
        ("**.log", "a/b.log", true),
        ("**.log", "b.log", true),
        ("**file", "myfile", true),
        ("a/*.txt", "a/b/c.txt", false),
        ("a.b", "axb", false),
        ("a(b)+$|{c", "a(b)+$|{c", true),
    ];
    for (pattern, text, want) in cases {
        assert_eq!(matches(pattern, text, Wildcards::DeepPath), Some(want), "{pattern} {text}");
    }
}

#[test]
fn broken_patterns_are_refused() {
    for pattern in ["[", "[]", "[]a]", "[^", "[a-", "[a-]", "[-]", "[-x]", "[a-b-c]", "a[", "\\", "[\\"] {
        assert_eq!(Pattern::parse(pattern, Wildcards::Path), Err(BadPattern), "{pattern}");
    }
}

#[test]
fn a_hostile_pattern_does_not_take_long() {
    let pattern = Pattern::parse(&"*a".repeat(200), Wildcards::Path).unwrap();
    assert!(!pattern.matches(&("a".repeat(4000) + "b")));
}
