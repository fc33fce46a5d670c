//! Resource quantities: `100m`, `1.5Gi`, `2e3`. Parsing, exact comparison, the canonical text, and rounding to
//! the units that placement and cgroups count in.

use std::{borrow::Cow, cmp::Ordering, fmt, str::FromStr};

/// Nano units per unit: the finest precision a quantity keeps.
const NANO: i128 = 1_000_000_000;

/// The family of suffixes that a quantity was written with; the canonical form keeps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    /// `Ki`, `Mi`, ...
    Binary,
    /// `m`, none, `k`, `M`, ...
    Decimal,
    /// `e3`
    Exponent,
}

/// An exact fixed-point number. Compared by value: `1000m` equals `1`.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    format: Format,
}

/// Text that is not a quantity, in the words of upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// Not of the form number and suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// A suffix that does not exist.
    #[error("unable to parse quantity's suffix")]
    Suffix,
    /// No digits.
    #[error("unable to parse numeric part of quantity")]
    Number,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0, format: Format::Decimal };

    /// So many thousandths (cores: millicores).
    pub fn from_milli(milli: i64) -> Self {
        Self { nanos: i128::from(milli) * (NANO / 1000), format: Format::Decimal }
    }

    /// So many units, shown with binary suffixes (bytes).
    pub fn from_bytes(bytes: i64) -> Self {
        Self { nanos: i128::from(bytes) * NANO, format: Format::Binary }
    }

    /// Whole units, rounded up (bytes).
    pub fn value(&self) -> i64 {
        saturate(div_ceil(self.nanos, NANO))
    }

    /// Thousandths, rounded up (millicores).
    pub fn milli(&self) -> i64 {
        saturate(div_ceil(self.nanos, NANO / 1000))
    }

    /// Whether it has no fraction.
    pub fn is_whole(&self) -> bool {
        self.nanos % NANO == 0
    }

    /// Below zero.
    pub fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    /// Exactly zero.
    pub fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// The sum, in the format of `self`, or in the other's when `self` is nothing.
    pub fn plus(self, other: Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nanos: self.nanos.saturating_add(other.nanos), format }
    }

    /// In whole thousandths, away from zero: lists of resources hold nothing finer.
    pub fn in_milli(self) -> Self {
        let milli = NANO / 1000;
        let whole = div_ceil(self.nanos.abs(), milli) * milli;
        Self { nanos: if self.is_negative() { -whole } else { whole }, ..self }
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        let (negative, rest) = match text.as_bytes().first() {
            Some(b'-') => (true, &text[1..]),
            Some(b'+') => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, rest) = split_digits(rest);
        let (fraction, suffix) = rest.strip_prefix('.').map_or(("", rest), split_digits);
        check_form(text, suffix)?;
        if whole.is_empty() && fraction.is_empty() {
            return Err(QuantityError::Number);
        }
        let (scale, format) = Scale::parse(suffix).ok_or(QuantityError::Suffix)?;
        let nanos = scale.apply(whole, fraction).min(i128::from(i64::MAX) * NANO);
        Ok(Self { nanos: if negative { -nanos } else { nanos }, format })
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nanos == 0 {
            return f.write_str("0");
        }
        let small = self.nanos.abs() < 1024 * NANO;
        if self.format == Format::Binary && !small && self.is_whole() {
            let (mut number, mut power) = (self.nanos / NANO, 0);
            while number % 1024 == 0 && power < 6 {
                (number, power) = (number / 1024, power + 1);
            }
            let suffix = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][power];
            return write!(f, "{number}{suffix}");
        }
        let (mut number, mut thousands) = (self.nanos, -3_i32);
        while number % 1000 == 0 && thousands < 6 {
            (number, thousands) = (number / 1000, thousands + 1);
        }
        if self.format == Format::Exponent && thousands != 0 {
            return write!(f, "{number}e{}", thousands * 3);
        }
        let suffix = match thousands {
            -3 => "n",
            -2 => "u",
            -1 => "m",
            0 => "",
            1 => "k",
            2 => "M",
            3 => "G",
            4 => "T",
            5 => "P",
            _ => "E",
        };
        write!(f, "{number}{suffix}")
    }
}

/// What a suffix multiplies by.
enum Scale {
    Binary(u32),
    Decimal(i32),
}

impl Scale {
    fn parse(suffix: &str) -> Option<(Self, Format)> {
        let binary = |power| Some((Self::Binary(power), Format::Binary));
        let decimal = |power| Some((Self::Decimal(power), Format::Decimal));
        match suffix {
            "Ki" => binary(10),
            "Mi" => binary(20),
            "Gi" => binary(30),
            "Ti" => binary(40),
            "Pi" => binary(50),
            "Ei" => binary(60),
            "n" => decimal(-9),
            "u" => decimal(-6),
            "m" => decimal(-3),
            "" => decimal(0),
            "k" => decimal(3),
            "M" => decimal(6),
            "G" => decimal(9),
            "T" => decimal(12),
            "P" => decimal(15),
            "E" => decimal(18),
            _ => {
                let exponent = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
                Some((Self::Decimal(exponent), Format::Exponent))
            }
        }
    }

    /// `whole.fraction` in nano units, rounded up; saturates.
    fn apply(&self, whole: &str, fraction: &str) -> i128 {
        let (power, factor) = match self {
            Self::Decimal(power) => (*power, 1),
            Self::Binary(power) => (0, 1_i128 << power),
        };
        let both = if fraction.is_empty() { Cow::Borrowed(whole) } else { [whole, fraction].concat().into() };
        let digits = both.trim_start_matches('0');
        if digits.is_empty() {
            return 0;
        }
        let Some(number) = digits.parse::<i128>().ok().and_then(|n| n.checked_mul(factor)) else {
            return i128::MAX;
        };
        let shift = i64::from(power) + 9 - fraction.len() as i64;
        match u32::try_from(shift.unsigned_abs()).ok().and_then(|by| 10_i128.checked_pow(by)) {
            Some(by) if shift >= 0 => number.saturating_mul(by),
            Some(by) => div_ceil(number, by),
            None if shift >= 0 => i128::MAX,
            None => 1,
        }
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// After the number: letters of suffixes, then perhaps a sign and digits.
fn check_form(text: &str, suffix: &str) -> Result<(), QuantityError> {
    let rest = suffix.trim_start_matches(|c| "eEinumkKMGTP".contains(c));
    let rest = rest.strip_prefix(['+', '-']).unwrap_or(rest);
    let well_formed = !text.is_empty() && rest.chars().all(|c| c.is_ascii_digit());
    well_formed.then_some(()).ok_or(QuantityError::Format)
}

fn div_ceil(number: i128, by: i128) -> i128 {
    let (quotient, rest) = (number / by, number % by);
    if rest > 0 { quotient + 1 } else { quotient }
}

fn saturate(number: i128) -> i64 {
    i64::try_from(number).unwrap_or(if number < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> String {
        text.parse::<Quantity>().unwrap().to_string()
    }

    #[test]
    fn canonical_form_is_upstreams() {
        for (text, expected) in [
            ("1000m", "1"),
            ("2000m", "2"),
            ("500m", "500m"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            ("1.5Gi", "1536Mi"),
            ("1024Mi", "1Gi"),
            ("1023", "1023"),
            ("1024", "1024"),
            ("1000", "1k"),
            ("12e6", "12e6"),
            ("1e3", "1e3"),
            ("100Ki", "100Ki"),
            ("512", "512"),
            ("0.1m", "100u"),
            ("0", "0"),
            ("0Gi", "0"),
            ("-2", "-2"),
            ("+1", "1"),
            (".5Gi", "512Mi"),
            ("0.5Ki", "512"),
            ("1000000", "1M"),
            ("128974848", "128974848"),
            ("129M", "129M"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }

    #[test]
    fn errors_are_upstreams() {
        let error = |text: &str| text.parse::<Quantity>().unwrap_err();
        for text in ["", "abc", "500x", "1 Gi", "1.2.3", "10MB"] {
            assert_eq!(error(text), QuantityError::Format, "{text}");
        }
        for text in ["500mm", "1mi", "1GiGi", "1k3"] {
            assert_eq!(error(text), QuantityError::Suffix, "{text}");
        }
        assert_eq!(error("."), QuantityError::Number);
    }

    #[test]
    fn lists_of_resources_hold_thousandths() {
        for (text, expected) in [
            ("100u", "1m"),
            ("0.0001", "1m"),
            ("0.0015", "2m"),
            ("1n", "1m"),
            ("-100u", "-1m"),
            ("1.5", "1500m"),
            ("1500m", "1500m"),
            ("0", "0"),
            ("1e-4", "1e-3"),
            ("1Gi", "1Gi"),
            ("0.0001Ki", "103m"),
        ] {
            assert_eq!(text.parse::<Quantity>().unwrap().in_milli().to_string(), expected, "{text}");
        }
    }

    #[test]
    fn units_round_up() {
        let q = |text: &str| text.parse::<Quantity>().unwrap();
        assert_eq!(q("100m").milli(), 100);
        assert_eq!(q("2").milli(), 2000);
        assert_eq!(q("1500u").milli(), 2);
        assert_eq!(q("512Mi").value(), 512 << 20);
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("99999999999999999999E").value(), i64::MAX);
        assert!(q("1000m") == q("1") && q("1Gi") > q("1G"));
    }

    proptest! {
        #[test]
        fn canonical_text_means_the_same_and_is_stable(
            number in 0_u64..10_000_000_000,
            suffix in prop::sample::select(vec!["m", "", "k", "M", "Ki", "Mi", "Gi", "e3"]),
        ) {
            let quantity: Quantity = format!("{number}{suffix}").parse().unwrap();
            let text = quantity.to_string();
            prop_assert_eq!(text.parse::<Quantity>().unwrap(), quantity);
            prop_assert_eq!(canonical(&text), text);
        }

        #[test]
        fn any_text_is_parsed_or_refused(text in "\\PC{0,12}") {
            let _ = text.parse::<Quantity>();
        }
    }
}
