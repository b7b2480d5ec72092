//! Kubernetes quantities: `10m`, `1.5`, `64Mi`, `1e3`.
//!
//! Source: apimachinery `pkg/api/resource/quantity.go`.

use std::str::FromStr;

/// An amount, kept in thousandths and rounded up to them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Quantity {
    milli: i128,
}

/// A string that is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
pub struct InvalidQuantity;

/// Beyond this many digits a quantity is nonsense, and arithmetic could overflow.
const MAX_DIGITS: usize = 18;

impl Quantity {
    /// Takes a whole number of units.
    pub fn from_units(units: i64) -> Self {
        Self { milli: i128::from(units) * 1000 }
    }

    /// Returns the amount in thousandths, rounded up.
    pub fn milli(self) -> i64 {
        i64::try_from(self.milli).unwrap_or(i64::MAX)
    }

    /// Returns the amount in whole units, rounded up.
    pub fn units(self) -> i64 {
        i64::try_from(self.milli.div_euclid(1000) + i128::from(self.milli.rem_euclid(1000) > 0))
            .unwrap_or(i64::MAX)
    }
}

impl FromStr for Quantity {
    type Err = InvalidQuantity;

    fn from_str(text: &str) -> Result<Self, InvalidQuantity> {
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
        let (number, suffix) = unsigned.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = whole.len() + fraction.len();
        if digits == 0 || digits > MAX_DIGITS || fraction.contains('.') {
            return Err(InvalidQuantity);
        }
        let mantissa: i128 = format!("{whole}{fraction}").parse().map_err(|_| InvalidQuantity)?;
        let (numerator, denominator) = scale(suffix).ok_or(InvalidQuantity)?;
        let divisor = 10_i128.pow(fraction.len() as u32) * denominator;
        let product = mantissa.checked_mul(numerator * 1000).ok_or(InvalidQuantity)?;
        let milli = product.div_euclid(divisor) + i128::from(product.rem_euclid(divisor) > 0);
        Ok(Self { milli: if text.starts_with('-') { -milli } else { milli } })
    }
}

/// Returns what a suffix multiplies and divides by.
fn scale(suffix: &str) -> Option<(i128, i128)> {
    let binary = |power: u32| Some((1_i128 << (10 * power), 1));
    match suffix {
        "" => Some((1, 1)),
        "n" => Some((1, 1_000_000_000)),
        "u" => Some((1, 1_000_000)),
        "m" => Some((1, 1000)),
        "k" => Some((1000, 1)),
        "M" => Some((1_000_000, 1)),
        "G" => Some((1_000_000_000, 1)),
        "T" => Some((1_000_000_000_000, 1)),
        "P" => Some((1_000_000_000_000_000, 1)),
        "E" => Some((1_000_000_000_000_000_000, 1)),
        "Ki" => binary(1),
        "Mi" => binary(2),
        "Gi" => binary(3),
        "Ti" => binary(4),
        "Pi" => binary(5),
        "Ei" => binary(6),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            let power = |n: i32| u32::try_from(n).ok().filter(|n| *n <= 18).map(|n| 10_i128.pow(n));
            if exponent < 0 { Some((1, power(-exponent)?)) } else { Some((power(exponent)?, 1)) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_upstream_reads_them() {
        for (text, milli) in [
            ("10m", 10),
            ("1", 1000),
            ("1.5", 1500),
            (".5", 500),
            ("64Mi", 64 * 1024 * 1024 * 1000),
            ("1e3", 1_000_000),
            ("1E-3", 1),
            ("5k", 5_000_000),
            ("1u", 1),
            ("-2", -2000),
        ] {
            assert_eq!(text.parse::<Quantity>().unwrap().milli(), milli, "{text}");
        }
        assert_eq!("1500m".parse::<Quantity>().unwrap().units(), 2);
        for text in ["", "m", "1.2.3", "1x", "1 Mi", "99999999999999999999", "1e99", "--1", "Mi"] {
            assert!(text.parse::<Quantity>().is_err(), "{text}");
        }
    }
}
