use proptest::prelude::*;
use serde_json::json;

use super::*;

fn run(text: &str) -> Result<Cel, Failure> {
    let object = json!({"a": 1, "list": [1, 2, 3], "map": {"x": "y"}, "text": "hello", "empty": [], "real": 1.5,
        "people": [{"name": "ann", "age": 30}, {"name": "bob", "age": 20}]});
    let program = Program::parse(text).map_err(Failure::Other)?;
    let scope = Scope::default().with("self", Cel::of(&object));
    program.run(&scope, &mut Budget::new(100_000))
}

fn holds(text: &str) {
    match run(text) {
        Ok(Cel::Bool(true)) => {}
        other => panic!("{text}: {other:?}"),
    }
}

#[test]
fn expressions_mean_what_the_specification_says() {
    for text in [
        "1 + 2 * 3 == 7 && (1 + 2) * 3 == 9",
        "-7 / 2 == -3 && -7 % 2 == -1",
        "1 == 1.0 && 1u == 1 && 2 > 1.5",
        "'a' + \"b\" == 'ab' && r'\\d' == '\\\\d' && '\\x41' == 'A' && '''a'b''' == \"a'b\"",
        "b'abc' == bytes('abc') && size(b'\\xff') == 1",
        "true ? 1 == 1 : 1 / 0 == 1",
        "false && 1 / 0 == 1 || true",
        "true || self.missing",
        "self.missing == 1 || true",
        "has(self.a) && !has(self.b) && has(self.map.x)",
        "self.list[1] == 2 && self.map['x'] == 'y' && 'x' in self.map && 2 in self.list",
        "self.list.all(x, x > 0) && self.list.exists(x, x == 3) && self.list.exists_one(x, x == 2)",
        "self.list.filter(x, x > 1).map(x, x * 2) == [4, 6] && self.list.map(x, x > 1, x) == [2, 3]",
        "self.map.all(k, k == 'x') && self.list.all(i, v, v == i + 1)",
        "self.list.transformList(i, v, i * v) == [0, 2, 6]",
        "{'a': 1}.transformMap(k, v, v + 1) == {'a': 2}",
        "cel.bind(x, self.a, x + x) == 2",
        "self.people.sortBy(p, p.age)[0].name == 'bob'",
        "self.?missing.orValue(5) == 5 && self.?a.hasValue() && self.list[?9].orValue(0) == 0",
        "[?optional.none(), 1] == [1] && {?'a': optional.of(1)} == {'a': 1}",
        "self.?a.optMap(x, x + 1).value() == 2",
        "self.text.startsWith('he') && self.text.matches('^h.*o$') && self.text.size() == 5",
        "self.text.upperAscii() == 'HELLO' && self.text.indexOf('l') == 2 && self.text.lastIndexOf('l') == 3",
        "self.text.substring(1, 3) == 'el' && self.text.replace('l', 'L') == 'heLLo' && self.text.charAt(0) == 'h'",
        "'a,b,c'.split(',') == ['a', 'b', 'c'] && ['a', 'b'].join('-') == 'ab'.split('').join('-')",
        "'%s is %d and %.2f'.format(['x', 3, 1.5]) == 'x is 3 and 1.50'",
        "'abc 123'.find('[0-9]+') == '123' && 'a1b2'.findAll('[0-9]') == ['1', '2']",
        "[1, 2, 3].sum() == 6 && [3, 1].min() == 1 && [1, 2].isSorted() && [1, 2, 1].indexOf(1) == 0",
        "[[1], [2]].flatten() == [1, 2] && [1, 1, 2].distinct() == [1, 2] && [3, 1].sort() == [1, 3]",
        "sets.contains([1, 2], [2]) && sets.intersects([1], [1, 2]) && sets.equivalent([1, 2], [2, 1])",
        "math.greatest(1, 5, 3) == 5 && math.least([2, 1]) == 1 && math.abs(-1) == 1 && math.ceil(1.2) == 2.0",
        "duration('1h30m') > duration('89m') && string(duration('90s')) == '90s' && duration('1h').getMinutes() == 60",
        "timestamp('2024-02-29T01:02:03Z').getFullYear() == 2024 && timestamp('2024-02-29T01:02:03Z').getMonth() == 1",
        "timestamp('2024-01-02T00:00:00Z') - timestamp('2024-01-01T00:00:00Z') == duration('24h')",
        "quantity('1Gi').isGreaterThan(quantity('1G')) && isQuantity('5m') && !isQuantity('x') && quantity('2k').asInteger() == 2000",
        "quantity('100m').add(quantity('900m')) == quantity('1')",
        "isIP('10.0.0.1') && ip('::1').family() == 6 && ip('127.0.0.1').isLoopback() && cidr('10.0.0.0/8').containsIP('10.1.1.1')",
        "cidr('10.1.0.0/8').masked() == cidr('10.0.0.0/8') && !isCIDR('10.0.0.0') && cidr('10.0.0.0/8').prefixLength() == 8",
        "url('https://a.b:80/p?x=1').getHost() == 'a.b:80' && url('https://a.b:80/p').getPort() == '80' && !isURL('x')",
        "semver('1.2.3').isLessThan(semver('1.10.0')) && semver('1.0.0-a').isLessThan(semver('1.0.0')) && !isSemver('1.2')",
        "!format.dns1123Label().validate('my-name').hasValue() && format.dns1123Label().validate('My').hasValue()",
        "type(1) == int && type('a') == string && int('5') == 5 && string(1.5) == '1.5' && double(1) == 1.0",
        "dyn(1) != 'a' && null == null && !(1 == null)",
        "// a remark\n1 == 1",
    ] {
        holds(text);
    }
}

#[test]
fn errors_are_told() {
    for (text, wanted) in [
        ("self.missing", "no such key: missing"),
        ("1 / 0", "division by zero"),
        ("9223372036854775807 + 1", "return error for overflow"),
        ("self.list[9]", "index out of bounds: 9"),
        ("1 + 'a'", "no such overload"),
        ("self.text.nothing()", "no such overload"),
        ("unknown", "undeclared reference to 'unknown'"),
        ("self.list.all(x, x.y)", "has no members"),
        ("quantity('x')", "quantities must match"),
        ("'a'.matches('(')", "illegal regex"),
    ] {
        let found = run(text).unwrap_err().to_string();
        assert!(found.contains(wanted), "{text}: {found}");
    }
    for text in
        ["1 +", "self.", "(1", "[1, 2", "'a", "self.list.all(1, true)", "has(self)", "a b", "1 ? 2", "#"]
    {
        assert!(Program::parse(text).is_err(), "{text}");
    }
    let deep = format!("{}1{}", "(".repeat(500), ")".repeat(500));
    assert!(Program::parse(&deep).unwrap_err().contains("nested too deeply"));
}

#[test]
fn cost_is_bounded() {
    let cubes = "self.list.map(a, self.list.map(b, self.list.map(c, self.list.map(d, a))))";
    let object = json!({"list": (0..100).collect::<Vec<_>>()});
    let scope = Scope::default().with("self", Cel::of(&object));
    let program = Program::parse(cubes).unwrap();
    assert_eq!(program.run(&scope, &mut Budget::new(1_000_000)).unwrap_err(), Failure::TooExpensive);
    let doubled =
        format!("{}'x'.split('').exists(y, true)", "cel.bind(s, 'x', ".repeat(20)) + &")".repeat(20);
    assert!(Program::parse(&doubled).is_ok());
    let large = json!({"text": "x".repeat(1_000_000)});
    let scope = Scope::default().with("self", Cel::of(&large));
    let program =
        Program::parse("[1,2,3,4,5,6,7,8,9,10,11,12].all(x, (self.text + self.text).size() > 0)").unwrap();
    assert_eq!(program.run(&scope, &mut Budget::new(1_000_000)).unwrap_err(), Failure::TooExpensive);
}

#[test]
fn names_are_checked_before_anything_runs() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}, "list": {"type": "array",
        "items": {"type": "object", "properties": {"x-y": {"type": "string"}}}}, "free": {"type": "object",
        "x-kubernetes-preserve-unknown-fields": true}}});
    let told = |text: &str| {
        let program = Program::parse(text).unwrap();
        check(program.expr(), &[Known { name: "self", schema: &schema }])
    };
    for text in [
        "self.a > 0",
        "self.list.all(x, x.x__dash__y == '')",
        "self.free.any.thing",
        "math.abs(self.a) == 1",
        "type(self.a) == int",
    ] {
        assert_eq!(told(text), Ok(()), "{text}");
    }
    for (text, wanted) in [
        ("self.b", "undefined field 'b'"),
        ("has(self.b)", "undefined field 'b'"),
        ("self.list.all(x, x.z)", "undefined field 'z'"),
        ("oldSelf.a", "undeclared reference to 'oldSelf'"),
        ("nothing(self.a)", "undeclared reference to 'nothing'"),
        ("self.a.b", "does not support field selection"),
    ] {
        assert!(told(text).unwrap_err().contains(wanted), "{text}");
    }
}

#[test]
fn schemas_give_values_their_types() {
    let schema = json!({"type": "object", "properties": {"when": {"type": "string", "format": "date-time"},
        "long": {"type": "string", "format": "duration"}, "real": {"type": "number"}, "namespace": {"type": "string"}}});
    let object = json!({"when": "2024-01-01T00:00:00Z", "long": "5m", "real": 1, "namespace": "x"});
    let scope = Scope::default().with("self", Cel::with_schema(&object, &schema));
    let text = "self.when.getFullYear() == 2024 && self.long == duration('300s') && type(self.real) == double && self.__namespace__ == 'x'";
    let program = Program::parse(text).unwrap();
    assert!(matches!(program.run(&scope, &mut Budget::new(1000)), Ok(Cel::Bool(true))));
}

proptest! {
    #[test]
    fn no_text_panics(text in "[-a-z0-9 .,()\\[\\]{}?:!&|=<>+*/%'\"\\\\]{0,60}") {
        if let Ok(program) = Program::parse(&text) {
            let scope = Scope::default().with("a", Cel::Int(1));
            let _ = program.run(&scope, &mut Budget::new(10_000));
        }
    }
}
