//! `list`: prints all containers below the root.

use std::fmt::Write as _;

use serde_json::Value;

use super::context::{Context, hierarchies, print, print_json};
use super::error::CliError;
use super::flags::{Flag, Parsed};

pub(super) const FLAGS: &[Flag] = &[
    Flag::value("format", "FORMAT", "table or json").short("f"),
    Flag::switch("quiet", "display only container IDs").short("q"),
];

pub(super) fn run(context: &Context, parsed: &Parsed) -> Result<i32, CliError> {
    let hierarchies = hierarchies()?;
    let records = context.store.list()?;
    if parsed.has("quiet") {
        let ids: String = records.iter().map(|record| format!("{}\n", record.id)).collect();
        print(&ids)?;
        return Ok(0);
    }
    let views: Vec<Value> = records.iter().map(|record| record.view(record.status(&hierarchies))).collect();
    match parsed.value("format") {
        None | Some("table") => print(&table(&views))?,
        // As Go writes a list that was never made.
        Some("json") if views.is_empty() => print("null\n")?,
        Some("json") => print_json(&Value::Array(views))?,
        Some(_) => return Err(CliError::Usage("invalid format option".to_owned())),
    }
    Ok(0)
}

fn table(views: &[Value]) -> String {
    const COLUMNS: [&str; 6] = ["id", "pid", "status", "bundle", "created", "owner"];
    let mut rows = vec![COLUMNS.map(str::to_uppercase)];
    rows.extend(views.iter().map(|view| COLUMNS.map(|column| cell(&view[column]))));
    let width = |column: usize| rows.iter().map(|row| row[column].len() + 3).max().unwrap_or(0).max(12);
    let widths: [usize; COLUMNS.len()] = std::array::from_fn(width);
    let mut text = String::new();
    for row in &rows {
        for (cell, width) in row.iter().zip(&widths).take(COLUMNS.len() - 1) {
            let _ = write!(text, "{cell:width$}");
        }
        let _ = writeln!(text, "{}", row[COLUMNS.len() - 1]);
    }
    text
}

fn cell(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn columns_line_up() {
        let view = json!({"id": "one", "pid": 7, "status": "running", "bundle": "/b", "created": "now", "owner": "root"});
        assert_eq!(
            table(&[view]),
            "ID          PID         STATUS      BUNDLE      CREATED     OWNER\n\
             one         7           running     /b          now         root\n"
        );
    }
}
