//! Quantities: `100m`, `1.5Gi`, `2e3`.
//!
//! Source: apimachinery `api/resource/quantity.go`.

/// A quantity in nanos, exact for everything that upstream accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Quantity(i128);

const NANO: i128 = 1_000_000_000;
const INVALID: &str =
    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'";

impl Quantity {
    /// Reads a quantity; fractions below a nano are rounded up, as upstream does.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let invalid = || INVALID.to_owned();
        let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
        let digits = unsigned.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let (number, suffix) = unsigned.split_at(digits);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') || digits > 40 {
            return Err(invalid());
        }
        let (base, exponent) = multiplier(suffix).ok_or_else(invalid)?;
        let digits = format!("{whole}{fraction}");
        let mantissa: i128 = if digits.is_empty() { 0 } else { digits.parse().map_err(|_| invalid())? };
        let scaled = scale(mantissa, base, exponent - fraction.len() as i32).ok_or_else(invalid)?;
        Ok(Self(if text.starts_with('-') { -scaled } else { scaled }))
    }

    /// Nothing.
    pub(crate) const ZERO: Self = Self(0);

    /// Takes a whole number.
    pub(crate) fn from_units(units: i64) -> Self {
        Self(i128::from(units) * NANO)
    }

    /// Adds.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Subtracts.
    pub(crate) fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Returns how often `other`, which is not zero, goes into it.
    pub(crate) fn ratio(self, other: Self) -> f64 {
        self.0 as f64 / other.0 as f64
    }

    /// Writes the quantity in canonical form, with binary suffixes where they were used and fit.
    pub(crate) fn written(self, binary: bool) -> String {
        const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
        const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];
        if self.0 == 0 {
            return "0".into();
        }
        let whole = self.0 % NANO == 0 && self.0.abs() >= 1024 * NANO;
        let (mut number, step, suffixes) =
            if binary && whole { (self.0 / NANO, 1024, &BINARY[..]) } else { (self.0, 1000, &DECIMAL[..]) };
        let mut at = 0;
        while number % step == 0 && at + 1 < suffixes.len() {
            number /= step;
            at += 1;
        }
        format!("{number}{}", suffixes[at])
    }

    /// Returns a quantity's text in the form in which upstream keeps it; nothing when it is none.
    pub(crate) fn canonical(text: &str) -> Option<String> {
        let text = text.trim();
        let quantity = Self::parse(text).ok()?;
        let numbers = |c: char| c.is_ascii_digit() || ".+-".contains(c);
        let suffix = text.trim_start_matches(numbers);
        if suffix.len() > 1 && suffix.starts_with(['e', 'E']) && !suffix.ends_with('i') {
            return Some(quantity.in_exponents());
        }
        let binary = suffix.ends_with('i');
        let large = quantity.0.abs() >= 1024 * NANO;
        // Upstream keeps no fractions of what has binary suffixes.
        let whole = quantity.0.div_euclid(NANO) + i128::from(quantity.0.rem_euclid(NANO) != 0);
        let quantity = if binary && large { Self(whole * NANO) } else { quantity };
        Some(quantity.written(binary))
    }

    /// Writes the quantity with a power of ten, which is a multiple of three.
    fn in_exponents(self) -> String {
        if self.0 == 0 {
            return "0".into();
        }
        let (mut number, mut exponent) = (self.0, -9);
        while number % 1000 == 0 {
            number /= 1000;
            exponent += 3;
        }
        if exponent == 0 { number.to_string() } else { format!("{number}e{exponent}") }
    }

    /// Returns it as a whole number, if it is one that fits.
    pub(crate) fn whole(self) -> Option<i64> {
        (self.0 % NANO == 0).then(|| i64::try_from(self.0 / NANO).ok()).flatten()
    }

    /// Whether it is below zero.
    pub(crate) fn is_negative(self) -> bool {
        self.0 < 0
    }
}

/// Returns a suffix as a binary factor and a power of ten.
fn multiplier(suffix: &str) -> Option<(i128, i32)> {
    Some(match suffix {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            (1, (-30..=30).contains(&exponent).then_some(exponent)?)
        }
    })
}

/// Computes `mantissa * base * 10^exponent` in nanos, rounded up.
fn scale(mantissa: i128, base: i128, exponent: i32) -> Option<i128> {
    let value = mantissa.checked_mul(base)?;
    let exponent = exponent + 9;
    if exponent >= 0 {
        return value.checked_mul(10i128.checked_pow(exponent.unsigned_abs())?);
    }
    let divisor = 10i128.checked_pow(exponent.unsigned_abs())?;
    Some(value / divisor + i128::from(value % divisor != 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_quantities_compare_equal() {
        for (one, other) in [
            ("1", "1000m"),
            ("1Ki", "1024"),
            ("1.5Gi", "1536Mi"),
            ("2e3", "2k"),
            ("0.1n", "1n"),
            ("-1", "-1.0"),
        ] {
            assert_eq!(Quantity::parse(one), Quantity::parse(other), "{one} {other}");
        }
        assert!(Quantity::parse("50m") > Quantity::parse("10m"));
        assert!(Quantity::parse("-1m").unwrap().is_negative());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "1 Gi", "abc", "1.2.3", "1gi", "1e99", "Mi", "--1", "1ki"] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn texts_become_canonical_as_upstream_keeps_them() {
        for (text, wanted) in [
            ("0.5", Some("500m")),
            ("1000m", Some("1")),
            ("1.5Gi", Some("1536Mi")),
            ("1024Mi", Some("1Gi")),
            ("0.5Ki", Some("512")),
            ("1024.5Ki", Some("1049088")),
            ("1000", Some("1k")),
            ("1e3", Some("1e3")),
            ("12e6", Some("12e6")),
            ("100e-3", Some("100e-3")),
            ("-0.1", Some("-100m")),
            ("0Gi", Some("0")),
            ("much", None),
        ] {
            assert_eq!(Quantity::canonical(text).as_deref(), wanted, "{text}");
        }
    }

    #[test]
    fn quantities_are_written_in_canonical_form() {
        for (text, binary, wanted) in [
            ("0.5", false, "500m"),
            ("1000m", false, "1"),
            ("64Mi", true, "64Mi"),
            ("65536Ki", true, "64Mi"),
            ("1024", true, "1Ki"),
            ("1000", true, "1k"),
            ("1500", false, "1500"),
            ("2e3", false, "2k"),
            ("0", true, "0"),
            ("-1Ki", true, "-1Ki"),
        ] {
            assert_eq!(Quantity::parse(text).unwrap().written(binary), wanted, "{text}");
        }
    }
}
