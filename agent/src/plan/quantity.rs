//! Kubernetes quantities (`250m`, `512Mi`, `1e3`) as integers, rounded up as upstream rounds them.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// In whole units (bytes, cores), rounded up. `None` when it does not parse or does not fit.
pub fn value(quantity: &Quantity) -> Option<i64> {
    scaled(&quantity.0, 0)
}

/// In thousandths (millicores), rounded up.
pub fn milli(quantity: &Quantity) -> Option<i64> {
    scaled(&quantity.0, 3)
}

fn scaled(text: &str, shift: i32) -> Option<i64> {
    let (negative, text) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits: i128 = format!("{whole}{fraction}").parse().ok()?;
    let (binary, decimal) = exponent(suffix)?;
    let numerator = digits.checked_mul(1_i128.checked_shl(binary)?)?;
    let power = decimal + shift - i32::try_from(fraction.len()).ok()?;
    let magnitude = if power >= 0 {
        numerator.checked_mul(10_i128.checked_pow(power.unsigned_abs())?)?
    } else {
        let divisor = 10_i128.checked_pow(power.unsigned_abs())?;
        numerator.div_euclid(divisor) + i128::from(numerator.rem_euclid(divisor) != 0)
    };
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// Power of two and power of ten of a suffix.
fn exponent(suffix: &str) -> Option<(u32, i32)> {
    Some(match suffix {
        "" => (0, 0),
        "n" => (0, -9),
        "u" => (0, -6),
        "m" => (0, -3),
        "k" => (0, 3),
        "M" => (0, 6),
        "G" => (0, 9),
        "T" => (0, 12),
        "P" => (0, 15),
        "E" => (0, 18),
        "Ki" => (10, 0),
        "Mi" => (20, 0),
        "Gi" => (30, 0),
        "Ti" => (40, 0),
        "Pi" => (50, 0),
        "Ei" => (60, 0),
        other => (0, other.strip_prefix(['e', 'E'])?.parse().ok()?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn q(text: &str) -> Quantity {
        Quantity(text.into())
    }

    #[test]
    fn quantities_are_read_as_upstream_reads_them() {
        for (text, units, thousandths) in [
            ("250m", 1, 250),
            ("2", 2, 2_000),
            ("0.1", 1, 100),
            ("1.5Gi", 1_610_612_736, 1_610_612_736_000),
            ("512Mi", 536_870_912, 536_870_912_000),
            ("1e3", 1_000, 1_000_000),
            ("12E2", 1_200, 1_200_000),
            ("100k", 100_000, 100_000_000),
            ("-1", -1, -1_000),
        ] {
            assert_eq!((value(&q(text)), milli(&q(text))), (Some(units), Some(thousandths)), "{text}");
        }
        for bad in ["", "m", "1x", "1 Gi", "1e", "99999999999999999999999999999999999999Ei"] {
            assert_eq!(value(&q(bad)), None, "{bad}");
        }
    }
}
