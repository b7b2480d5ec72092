//! `docs/conformance-kubernetes.md`: upstream's conformance rows, each with the test that shows it or the gap.
//!
//! The table `docs/conformance-kubernetes.tsv` is written by hand: area, test, release, state, and either the tests that
//! show it (`server:module::test`, `e2e:module::test`, `sim:module::test`, `unit:crate/file.rs`) or what is missing. Tests of this module
//! hold that every test named is there and that the page is what the table says.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};

const TABLE: &str = "docs/conformance-kubernetes.tsv";
const PAGE: &str = "docs/conformance-kubernetes.md";
const HEAD: &str = "# Upstream's conformance tests, row by row

Made by `cargo xtask conformance` from `conformance-kubernetes.tsv`; edit that. The rows are those of Kubernetes 1.34's
conformance suite. No row is a run of upstream's own program (it cannot be had here); a row is shown by a test of ours that does what the
row says.

- **shown**: the named test does what the row asks.
- **api**: what the row asks of the API server is there and tested; the rest of it needs a node, a network or a controller.
- **cluster**: the row is about a node, the cluster's network or a controller and has no test of its own yet.
- **gap**: known not to hold.

`server:` is `crates/cirro-apiserver/tests/server/`, `e2e:` `crates/cirro/tests/e2e/`, `sim:`
`crates/cirro-sim/tests/control_plane/` (simulated nodes), `unit:` the tests in a file of a crate.
";

/// How much of a row holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum State {
    Shown,
    Api,
    Cluster,
    Gap,
}

impl State {
    const ALL: [Self; 4] = [Self::Shown, Self::Api, Self::Cluster, Self::Gap];

    fn word(self) -> &'static str {
        match self {
            Self::Shown => "shown",
            Self::Api => "api",
            Self::Cluster => "cluster",
            Self::Gap => "gap",
        }
    }
}

struct Row {
    area: String,
    test: String,
    release: String,
    state: State,
    by: String,
}

/// Writes the page, once every test named in the table was found.
pub(crate) fn write() -> Result<()> {
    let root = root();
    let rows = rows(&root)?;
    find_tests(&root, &rows)?;
    std::fs::write(root.join(PAGE), page(&rows)).context("write the page")
}

fn find_tests(root: &Path, rows: &[Row]) -> Result<()> {
    for row in rows {
        for word in row.by.split(' ') {
            find(root, word).with_context(|| row.test.clone())?;
        }
    }
    Ok(())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn rows(root: &Path) -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(root.join(TABLE)).with_context(|| format!("read {TABLE}"))?;
    text.lines().skip(1).map(row).collect()
}

fn row(line: &str) -> Result<Row> {
    let [area, test, release, state, by] = <[&str; 5]>::try_from(line.split('\t').collect::<Vec<_>>())
        .ok()
        .with_context(|| format!("five columns: {line}"))?;
    let state = State::ALL.into_iter().find(|one| one.word() == state);
    let state = state.with_context(|| format!("no such state: {line}"))?;
    ensure!(state == State::Cluster || !by.is_empty(), "nothing shows it: {line}");
    let [area, test, release, by] = [area, test, release, by].map(str::to_owned);
    Ok(Row { area, test, release, state, by })
}

fn page(rows: &[Row]) -> String {
    let mut out = format!(
        "{HEAD}\n| area | rows | shown | api | cluster | gap |\n| --- | --- | --- | --- | --- | --- |\n"
    );
    let mut areas: BTreeMap<&str, Vec<&Row>> = BTreeMap::new();
    for row in rows {
        areas.entry(&row.area).or_default().push(row);
    }
    let line = |name: &str, rows: &[&Row]| {
        let counts = State::ALL.map(|state| rows.iter().filter(|row| row.state == state).count().to_string());
        format!("| {name} | {} | {} |\n", rows.len(), counts.join(" | "))
    };
    for (area, rows) in &areas {
        out += &line(area, rows);
    }
    out += &line("all", &rows.iter().collect::<Vec<_>>());
    for (area, rows) in areas {
        write!(out, "\n## {area}\n\n| test | release | state | shown by, or what is missing |\n| --- | --- | --- | --- |\n")
            .expect("memory takes it");
        for row in rows {
            let by: Vec<String> = row.by.split(' ').map(code).collect();
            writeln!(
                out,
                "| {} | {} | {} | {} |",
                row.test.replace('|', "\\|"),
                row.release,
                row.state.word(),
                by.join(" ")
            )
            .expect("memory takes it");
        }
    }
    out
}

/// Names of tests are set as code.
fn code(word: &str) -> String {
    let is_test = ["server:", "e2e:", "sim:", "unit:"].iter().any(|kind| word.starts_with(kind));
    let (name, comma) = word.strip_suffix(',').map_or((word, ""), |name| (name, ","));
    if is_test { format!("`{name}`{comma}") } else { word.to_owned() }
}

/// Finds the test that a word of the last column names; words that name none are prose.
fn find(root: &Path, word: &str) -> Result<()> {
    let word = word.trim_end_matches(',');
    let Some((kind, name)) = word.split_once(':') else { return Ok(()) };
    let directory = match kind {
        "server" => "crates/cirro-apiserver/tests/server",
        "e2e" => "crates/cirro/tests/e2e",
        "sim" => "crates/cirro-sim/tests/control_plane",
        "unit" => {
            let text =
                std::fs::read_to_string(root.join("crates").join(name)).with_context(|| word.to_owned())?;
            ensure!(text.contains("#[cfg(test)]") || name.ends_with("tests.rs"), "{word} has no tests");
            return Ok(());
        }
        _ => return Ok(()),
    };
    let (module, test) = name.split_once("::").with_context(|| format!("module and test: {word}"))?;
    let text = std::fs::read_to_string(root.join(directory).join(format!("{module}.rs")));
    let text = text.with_context(|| word.to_owned())?;
    if !text.contains(&format!("fn {test}(")) {
        bail!("there is no test {word}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_that_is_named_is_there() {
        let root = root();
        find_tests(&root, &rows(&root).unwrap()).unwrap();
        assert!(find(&root, "server:http::no_such_test").is_err());
    }

    #[test]
    fn the_page_is_what_the_table_says() {
        let root = root();
        let page = page(&rows(&root).unwrap());
        let written = std::fs::read_to_string(root.join(PAGE)).unwrap();
        assert!(page == written, "run `cargo xtask conformance`");
    }
}
