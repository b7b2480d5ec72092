use proptest::prelude::*;

use super::*;

fn kinds(text: &str) -> Vec<Kind> {
    let file = parse(&format!("FROM base\n{text}")).unwrap();
    file.stages[0].body.iter().map(|instruction| instruction.kind.clone()).collect()
}

fn kind(text: &str) -> Kind {
    let [kind] = <[Kind; 1]>::try_from(kinds(text)).unwrap();
    kind
}

fn shell(line: &str) -> Command {
    Command::Shell(line.into())
}

fn exec(words: &[&str]) -> Command {
    Command::Exec(words.iter().map(|word| (*word).to_owned()).collect())
}

fn run(line: &str) -> Kind {
    Kind::Run { command: shell(line), documents: Vec::new() }
}

#[test]
fn continuations_are_joined_and_comments_left_out() {
    let cases = [
        ("RUN a \\\n  b", "a   b"),
        ("RUN a \\\n# remark\n\n   # another\n  && b", "a   && b"),
        ("RUN a \\  \n b", "a  b"),
        ("RUN a \\\\\n", "a \\\\"),
        ("  run a\r\n", "a"),
        ("RUN a # not a comment", "a # not a comment"),
        ("RU\\\nN a", "a"),
        ("RUN a \\", "a"),
    ];
    for (text, line) in cases {
        assert_eq!(kind(text), run(line), "{text:?}");
    }
}

#[test]
fn lines_are_counted_as_in_the_file() {
    let text = "# comment\n\nFROM a\nRUN x \\\n  y\n\nRUN <<E\n1\n2\nE\nCMD z\n";
    let file = parse(text).unwrap();
    assert_eq!(file.stages[0].from.line, 3);
    let lines: Vec<usize> = file.stages[0].body.iter().map(|instruction| instruction.line).collect();
    assert_eq!(lines, [4, 7, 11]);
}

#[test]
fn the_escape_directive_changes_the_continuation() {
    let file = parse("# syntax=docker/dockerfile:1\n# escape=`\nFROM a\nRUN x `\n y\\\n").unwrap();
    assert_eq!(file.escape, '`');
    assert_eq!(file.stages[0].body[0].kind, run("x  y\\"));
    assert_eq!(parse("# remark\n# escape=`\nFROM a\n").unwrap().escape, '\\', "after a comment it is one");
    assert!(parse("# escape=x\nFROM a\n").is_err());
    assert!(parse("# escape=`\n# escape=`\nFROM a\n").is_err());
}

#[test]
fn commands_have_two_forms() {
    let cases = [
        (r#"CMD ["a", "b \" c"]"#, exec(&["a", "b \" c"])),
        (r#"CMD [ "a" ] "#, exec(&["a"])),
        ("CMD ['a']", shell("['a']")),
        ("CMD [ -f /x ] && y", shell("[ -f /x ] && y")),
        ("CMD a  'b  c'", shell("a  'b  c'")),
        ("CMD [\"a\", \\\n \"b\"]", exec(&["a", "b"])),
    ];
    for (text, command) in cases {
        assert_eq!(kind(text), Kind::Cmd(command), "{text}");
    }
}

#[test]
fn pairs_have_two_forms_and_keep_their_quotes() {
    let pairs =
        |list: &[(&str, &str)]| list.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect();
    let cases: [(&str, Vec<(String, String)>); 4] = [
        (
            "ENV a=1 b=\"x y\" c=x\\ y d='$z'",
            pairs(&[("a", "1"), ("b", "\"x y\""), ("c", "x\\ y"), ("d", "'$z'")]),
        ),
        ("ENV a  b c = d", pairs(&[("a", "b c = d")])),
        ("ENV a=", pairs(&[("a", "")])),
        ("ENV a=1 \\\n    b=2", pairs(&[("a", "1"), ("b", "2")])),
    ];
    for (text, pairs) in cases {
        assert_eq!(kind(text), Kind::Env(pairs), "{text}");
    }
}

#[test]
fn flags_come_before_the_arguments_only() {
    let file =
        parse("FROM --platform=linux/amd64 a\nCOPY --chown=\"a b\" --link --from=x y --z w\n").unwrap();
    assert_eq!(file.stages[0].from.flag("platform"), Some("linux/amd64"));
    let copy = &file.stages[0].body[0];
    assert_eq!(copy.flag("chown"), Some("a b"));
    assert_eq!(copy.flag("link"), Some("true"));
    assert_eq!(copy.flag("from"), Some("x"));
    let Kind::Copy(transfer) = &copy.kind else { panic!("{copy:?}") };
    let sources = ["y", "--z"].map(|path| TransferSource::Path(path.into()));
    assert_eq!(transfer.sources, sources);
    assert_eq!(kind("CMD --help"), Kind::Cmd(shell("--help")));
    assert_eq!(kind("RUN -- --network=x"), run("--network=x"));
}

#[test]
fn here_documents_are_taken_off_the_lines_that_follow() {
    let document = |name: &str, expand, content: &str| HereDocument {
        name: name.into(),
        expand,
        content: content.into(),
    };
    let text = "RUN cat <<EOF > /x && cat <<-\"TAB\" 3<<N\n# kept \\\nEOF\n\t\ta\n\tTAB\nN\nRUN b <<<here\n";
    let documents =
        vec![document("EOF", true, "# kept \\\n"), document("TAB", false, "a\n"), document("N", true, "")];
    let first = Kind::Run { command: shell("cat <<EOF > /x && cat <<-\"TAB\" 3<<N"), documents };
    assert_eq!(kinds(text), [first, run("b <<<here")]);
    let Kind::Copy(transfer) = kind("COPY a <<EOF /b/\nx\nEOF\n") else { panic!() };
    let sources = [TransferSource::Path("a".into()), TransferSource::Document(document("EOF", true, "x\n"))];
    assert_eq!(transfer.sources, sources);
    assert_eq!(kind("CMD echo <<EOF"), Kind::Cmd(shell("echo <<EOF")), "only RUN, COPY and ADD have them");
}

#[test]
fn a_trigger_is_kept_whole_and_parsed_later() {
    let Kind::OnBuild(text) = kind("ONBUILD RUN cat <<E\nx\nE\n") else { panic!() };
    let trigger = parse_trigger(&text, 7).unwrap();
    let documents = vec![HereDocument { name: "E".into(), expand: true, content: "x\n".into() }];
    assert_eq!(trigger.kind, Kind::Run { command: shell("cat <<E"), documents });
    assert_eq!(trigger.line, 7);
    for bad in ["FROM x", "MAINTAINER x", "ONBUILD RUN x", "RUN a\nRUN b", "", "WHAT x"] {
        assert_eq!(parse_trigger(bad, 7).unwrap_err().line, 7, "{bad}");
    }
}

#[test]
fn stages_have_names_in_lower_case() {
    let file = parse("ARG A=1\nFROM a AS One\nRUN x\nFROM ${A} as two\n").unwrap();
    assert_eq!(file.global.len(), 1);
    let names: Vec<_> = file.stages.iter().map(|stage| stage.name.clone().unwrap()).collect();
    assert_eq!(names, ["one", "two"]);
    assert_eq!(file.stages[1].image, "${A}");
}

#[test]
fn wrong_lines_are_told_as_docker_tells_them() {
    let cases = [
        ("", 1, "file with no instructions"),
        ("# only\n\n", 1, "file with no instructions"),
        ("ARG a\n", 1, "no build stage in current context"),
        ("CMD a\nFROM b\n", 1, "no build stage in current context"),
        ("FROM a\nFRUM b\n", 2, "unknown instruction: FRUM"),
        ("FROM\n", 1, "FROM requires either one or three arguments"),
        ("FROM a b c\n", 1, "FROM requires either one or three arguments"),
        (
            "FROM a AS 1x\n",
            1,
            "invalid name for build stage: \"1x\", name can't start with a number or contain symbols",
        ),
        ("FROM a AS b\nFROM a AS B\n", 2, "duplicate name b"),
        ("FROM a\nRUN\n", 2, "RUN requires at least one argument"),
        (
            "FROM a\nCOPY x\n",
            2,
            "COPY requires at least two arguments, but only one was provided. Destination could not be determined",
        ),
        ("FROM a\nCOPY --what=1 x y\n", 2, "unknown flag: --what"),
        ("FROM a\nENV x\n", 2, "ENV must have two arguments"),
        ("FROM a\nENV x=1 y\n", 2, "Syntax error - can't find = in \"y\". Must be of the form: name=value"),
        ("FROM a\nENV =1\n", 2, "ENV names can not be blank"),
        ("FROM a\nSHELL sh -c\n", 2, "SHELL requires the arguments to be in JSON form"),
        ("FROM a\nCMD [1]\n", 2, "when using JSON array syntax, arrays must be comprised of strings only"),
        ("FROM a\nHEALTHCHECK WHAT\n", 2, "Unknown type \"WHAT\" in HEALTHCHECK (try CMD)"),
        ("FROM a\nONBUILD ONBUILD RUN x\n", 2, "Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed"),
        ("FROM a\nONBUILD FROM x\n", 2, "FROM isn't allowed as an ONBUILD trigger"),
        ("FROM a\n\nRUN <<EOF\nx\n", 3, "unterminated heredoc, want a line with EOF alone"),
    ];
    for (text, line, message) in cases {
        assert_eq!(parse(text).unwrap_err(), Wrong { line, message: message.into() }, "{text:?}");
    }
}

proptest! {
    #[test]
    fn no_text_makes_the_parser_panic(text in r#"(FROM a\n)?(([A-Z]{0,8}|RUN|COPY|ENV|ONBUILD)[ a<\-"'\[\],\\$\n\t=#E]{0,40}){0,6}"#) {
        let _ = parse(&text);
    }

    #[test]
    fn words_joined_give_the_same_words(words in prop::collection::vec("[a-z$=]{1,8}|\"[a-z ]{0,8}\"|'[a-z \\\\]{0,8}'", 0..6)) {
        prop_assert_eq!(super::words::split(&words.join("  "), '\\'), words);
    }
}
