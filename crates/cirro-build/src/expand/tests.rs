use proptest::prelude::*;

use super::*;

const VARIABLES: [(&str, &str); 6] = [
    ("HOME", "/root"),
    ("EMPTY", ""),
    ("WORDS", "one two"),
    ("한", "국"),
    ("FILE", "a.tar.gz"),
    ("DOLLAR", "$HOME"),
];

fn lookup(name: &str) -> Option<String> {
    VARIABLES.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
}

fn with(escape: char) -> Expander<'static> {
    Expander { escape, lookup: &lookup }
}

#[test]
fn words_are_expanded_as_a_shell_would() {
    let cases = [
        ("plain", "plain"),
        ("$HOME", "/root"),
        ("a${HOME}b", "a/rootb"),
        ("$HOME.x", "/root.x"),
        ("$HOMEx", ""),
        ("$한글", ""),
        ("${한}", "국"),
        ("$NONE-", "-"),
        ("'$HOME'", "$HOME"),
        ("\"$HOME\"", "/root"),
        ("\"'$HOME'\"", "'/root'"),
        ("'\"'", "\""),
        ("\\$HOME", "$HOME"),
        ("\\\\$HOME", "\\/root"),
        ("\"\\$HOME \\\" \\x \\\\\"", "$HOME \" \\x \\"),
        ("'a\\'b", "a\\b"),
        ("a\\", "a"),
        ("$", "$"),
        ("a$ b", "a$ b"),
        ("$1x", "x"),
        ("$DOLLAR", "$HOME"),
        ("  two  spaces ", "  two  spaces "),
        ("${HOME:-x}", "/root"),
        ("${EMPTY:-x}", "x"),
        ("${EMPTY-x}", ""),
        ("${NONE-x}", "x"),
        ("${NONE:-}", ""),
        ("${NONE:-$HOME/${EMPTY:-deep}}", "/root/deep"),
        ("${NONE:-'a b'}", "a b"),
        ("${NONE:-a\\}b}", "a}b"),
        ("${HOME:+x}", "x"),
        ("${EMPTY:+x}", ""),
        ("${EMPTY+x}", "x"),
        ("${NONE+x}", ""),
        ("${HOME:?x}", "/root"),
        ("${HOME/o/0}", "/r0ot"),
        ("${HOME//o/$HOME}", "/r/root/roott"),
        ("${HOME/\\/r*t/x}", "x"),
        ("${NONE/a/b}", ""),
        ("${FILE#*.}", "tar.gz"),
        ("${FILE##*.}", "gz"),
        ("${FILE%.*}", "a.tar"),
        ("${FILE%%.*}", "a"),
        ("${FILE%.zip}", "a.tar.gz"),
        ("${FILE#?.}", "tar.gz"),
        ("${FILE#}", "a.tar.gz"),
        ("${NONE#x}", ""),
    ];
    for (text, want) in cases {
        assert_eq!(with('\\').word(text).as_deref(), Ok(want), "{text}");
    }
    assert_eq!(with('`').word("`$HOME C:\\x").as_deref(), Ok("$HOME C:\\x"));
}

#[test]
fn what_cannot_be_expanded_says_why() {
    let cases = [
        ("'a", "single-quote"),
        ("\"a", "double-quote"),
        ("${", "missing '}'"),
        ("${HOME", "missing '}'"),
        ("${HOME:-x", "missing '}'"),
        ("${}", "bad substitution"),
        ("${:x}", "bad substitution"),
        ("${{HOME}}", "bad substitution"),
        ("${HOME:=x}", "unsupported modifier (:=)"),
        ("${HOME/a", "missing '/' in ${}"),
        ("${HOME/a}", "missing '/' in ${}"),
        ("${HOME/a/b", "missing '}'"),
        ("${NONE:?}", "NONE: is not allowed to be empty"),
        ("${NONE?want $HOME}", "NONE: want /root"),
        ("${HOME!}", "unsupported modifier (!)"),
    ];
    for (text, reason) in cases {
        let error = with('\\').word(text).unwrap_err();
        assert!(error.contains(reason), "{text}: {error}");
    }
    let deep = "${N:-".repeat(100) + &"}".repeat(100);
    assert!(with('\\').word(&deep).unwrap_err().contains("nested"));
}

#[test]
fn words_are_split_after_expansion() {
    let cases: [(&str, &[&str]); 6] = [
        ("a  b", &["a", "b"]),
        ("$WORDS x", &["one", "two", "x"]),
        ("\"$WORDS\" x", &["one two", "x"]),
        ("a\\ b", &["a b"]),
        ("$EMPTY", &[]),
        (" x$WORDS ", &["xone", "two"]),
    ];
    for (text, want) in cases {
        assert_eq!(with('\\').words(text).unwrap(), want, "{text}");
    }
}

#[test]
fn documents_keep_quotes_and_most_escapes() {
    let text = "it's \"$HOME\" \\$HOME \\n \\\\ ${NONE:-x}\n";
    assert_eq!(with('\\').document(text).as_deref(), Ok("it's \"/root\" $HOME \\n \\ x\n"));
}

proptest! {
    #[test]
    fn no_text_makes_the_expander_panic(text in r#"[a-zA-Z${}:+\-?#%/'"\\ *]{0,60}"#) {
        let _ = with('\\').word(&text);
        let _ = with('\\').words(&text);
        let _ = with('\\').document(&text);
    }

    #[test]
    fn text_without_marks_stays(text in "[^$'\"\\\\]{0,60}") {
        prop_assert_eq!(with('\\').word(&text), Ok(text));
    }

    #[test]
    fn quoted_text_stays(text in "[^']{0,60}") {
        prop_assert_eq!(with('\\').word(&format!("'{text}'")), Ok(text));
    }

    #[test]
    fn escaped_text_stays(text in ".{0,60}") {
        let escaped: String = text.chars().flat_map(|c| ['\\', c]).collect();
        prop_assert_eq!(with('\\').word(&escaped), Ok(text));
    }

    #[test]
    fn a_default_is_taken_exactly_when_there_is_no_value(name in "HOME|EMPTY|NONE", word in "[a-z]{0,8}") {
        let value = lookup(&name);
        let unset = value.clone().unwrap_or(word.clone());
        let empty = value.clone().filter(|value| !value.is_empty()).unwrap_or(word.clone());
        prop_assert_eq!(with('\\').word(&format!("${{{name}-{word}}}")), Ok(unset));
        prop_assert_eq!(with('\\').word(&format!("${{{name}:-{word}}}")), Ok(empty));
    }

    #[test]
    fn trimming_cuts_what_the_pattern_matches(value in "[ab.]{0,12}", pattern in "[ab.*?]{0,4}") {
        let lookup = |_: &str| Some(value.clone());
        let expander = Expander { escape: '\\', lookup: &lookup };
        let compiled = Pattern::parse(&pattern, Wildcards::Shell).unwrap();
        let fits: Vec<usize> = (0..=value.len()).filter(|at| compiled.matches(&value[..*at])).collect();
        let shortest = fits.first().map_or(value.as_str(), |at| &value[*at..]);
        let longest = fits.last().map_or(value.as_str(), |at| &value[*at..]);
        prop_assert_eq!(expander.word(&format!("${{V#{pattern}}}")), Ok(shortest.to_owned()));
        prop_assert_eq!(expander.word(&format!("${{V##{pattern}}}")), Ok(longest.to_owned()));
    }
}
