//! Small checks that many kinds share: choices, ranges, members that must be there.

use serde_json::Value;

use super::quantity::Quantity;
use crate::error::Causes;
use crate::json;

/// Refuses a text outside a set; absent is good.
pub(crate) fn one_of(field: &str, object: &Value, supported: &[&str], causes: &mut Causes) {
    let value = json::text(object, field);
    if !value.is_empty() && !supported.contains(&value) {
        causes.unsupported(field, &value.into(), supported);
    }
}

/// Refuses an absent text, and one outside a set.
pub(crate) fn required_one_of(field: &str, object: &Value, supported: &[&str], causes: &mut Causes) {
    if json::text(object, field).is_empty() {
        causes.required(field, "");
    } else {
        one_of(field, object, supported, causes);
    }
}

/// Refuses an absent or empty text; returns whether it is there.
pub(crate) fn required(field: &str, object: &Value, detail: &str, causes: &mut Causes) -> bool {
    let there = !json::text(object, field).is_empty();
    if !there {
        causes.required(field, detail);
    }
    there
}

/// Refuses a number outside a range; absent is good.
pub(crate) fn between(field: &str, object: &Value, low: i64, high: i64, causes: &mut Causes) {
    if let Some(value) = json::number(object, field).filter(|value| !(low..=high).contains(value)) {
        let detail = format!("must be between {low} and {high}, inclusive");
        causes.invalid(field, &value.into(), &detail);
    }
}

/// Refuses a change of a member, in the words of kinds that say more than "field is immutable".
pub(crate) fn unchanged(field: &str, new: &Value, old: &Value, detail: &str, causes: &mut Causes) {
    if json::at(new, field) != json::at(old, field) {
        causes.forbidden(field, detail);
    }
}

/// Reads a quantity that a member holds.
pub(crate) fn quantity(value: &Value) -> Result<Quantity, String> {
    value.as_str().map_or_else(|| Quantity::parse(&value.to_string()), Quantity::parse)
}

const PERCENT: &str = "a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')";

/// Reads a count or a percentage that is not negative.
pub(crate) fn amount(value: &Value) -> Result<i64, &'static str> {
    let number = match value {
        Value::Number(number) => number.as_i64(),
        Value::String(text) => text.strip_suffix('%').ok_or(PERCENT)?.parse().ok(),
        _ => None,
    };
    match number {
        Some(number) if number >= 0 => Ok(number),
        Some(_) => Err("must be greater than or equal to 0"),
        None => Err("must be an integer or percentage (e.g '5%%')"),
    }
}

/// Refuses a count that is negative and a percentage that is none or above 100.
pub(crate) fn share(field: &str, object: &Value, causes: &mut Causes) {
    let Some(value) = json::at(object, field) else { return };
    match amount(value) {
        Err(why) => causes.invalid(field, value, why),
        Ok(number) if value.is_string() && number > 100 => {
            causes.invalid(field, value, "must not be greater than 100%");
        }
        Ok(_) => {}
    }
}
