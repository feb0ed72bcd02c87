//! The numbers that every parser reads without rounding: those of an IEEE 754 double (RFC 7493 section 2.2).

/// The error for clients, after the name of the field.
pub(super) const RULE: &str = "has a number that is not an IEEE 754 double: at most 64 characters and 17 significant \
     digits, between 5e-324 and 1.8e308, and an integer above 2^53 only if it is exact. Send such a number as a string";

/// Longest number in characters.
const MAX_NUMBER: usize = 64;
/// Digits that identify every double.
const MAX_DIGITS: usize = 17;
/// Numbers of at most as many characters without an exponent have at most as many digits, which every double holds.
const ALWAYS: usize = 15;

/// Whether a reader with doubles gets the number that was meant. `token` is a JSON number.
///
/// An integer must be exact, or be written with the shortest digits of its double, as JavaScript writes it. A number
/// with a fraction or an exponent has at most [`MAX_DIGITS`] significant digits, which is what languages write for a
/// double.
pub(super) fn fits(token: &str) -> bool {
    let scientific = token.contains(['e', 'E']);
    if token.len() <= ALWAYS && !scientific {
        return true;
    }
    let value = value(token);
    if token.len() > MAX_NUMBER || !value.is_finite() {
        return false;
    }
    let decimal = Decimal::of(token);
    if value == 0.0 {
        return decimal.digits.is_empty();
    }
    if decimal == Decimal::of(&format!("{value:e}")) {
        return true;
    }
    if scientific || token.contains('.') {
        return decimal.digits.len() <= MAX_DIGITS;
    }
    let exact = token.parse::<i128>().ok();
    exact.is_some_and(|exact| exact as f64 as i128 == exact)
}

/// The nearest double as JSON; `null` beyond the range of doubles.
pub(super) fn nearest(token: &str) -> String {
    let number = serde_json::Number::from_f64(value(token));
    number.map_or_else(|| "null".to_owned(), |number| number.to_string())
}

fn value(token: &str) -> f64 {
    token.parse().unwrap_or(f64::INFINITY)
}

/// A number's significant digits, without zeros at either end, and the power of ten of the last one. The sign is left
/// out.
#[derive(PartialEq, Eq)]
struct Decimal {
    digits: String,
    exponent: i64,
}

impl Decimal {
    fn of(token: &str) -> Decimal {
        let (mantissa, exponent) = token.split_once(['e', 'E']).unwrap_or((token, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{}{fraction}", whole.trim_start_matches('-'));
        let digits = all.trim_end_matches('0');
        // Out of range, the number is infinite or zero, and its exponent does not count.
        let exponent: i64 = exponent.parse().unwrap_or_default();
        let shift = all.len() as i64 - digits.len() as i64 - fraction.len() as i64;
        Decimal {
            digits: digits.trim_start_matches('0').to_owned(),
            exponent: exponent.saturating_add(shift),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn numbers_that_fit() {
        let zeros = "0".repeat(50);
        for good in [
            "0",
            "-0",
            "-0.0",
            "0e99999999999999999999",
            "0.1",
            "1.10",
            "123456789012345",
            "9007199254740991",
            "9007199254740992",
            "-9007199254740994",
            // 2^60 as Python and as JavaScript write it.
            "1152921504606846976",
            "1152921504606847000",
            "123456789012345680000",
            "1e21",
            "1E+300",
            "1.7976931348623157e308",
            "5e-324",
            "2.2250738585072014e-308",
            "0.10000000000000001",
            "3.141592653589793",
            "1e-7",
            &format!("1{zeros}"),
            &format!("0.1{zeros}"),
        ] {
            assert!(fits(good), "{good}");
        }
    }

    #[test]
    fn numbers_that_do_not_fit() {
        let digits = "7".repeat(3000);
        let zeros = "0".repeat(3000);
        for (bad, nearest_double) in [
            ("1e999", "null"),
            ("-1e309", "null"),
            ("1e99999999999999999999", "null"),
            ("1e-400", "0.0"),
            ("9007199254740993", "9007199254740992.0"),
            ("12345678901234567", "1.2345678901234568e+16"),
            ("1152921504606846977", "1.152921504606847e+18"),
            ("12345678901234567890123", "1.2345678901234568e+22"),
            ("0.123456789012345678901", "0.12345678901234568"),
            (&digits, "null"),
            (&format!("0.{digits}"), "0.7777777777777778"),
            (&format!("1{zeros}"), "null"),
            (&format!("0.1{zeros}"), "0.1"),
            (&format!("0.{zeros}1"), "0.0"),
        ] {
            assert!(!fits(bad), "{bad}");
            assert_eq!(nearest(bad), nearest_double, "{bad}");
        }
    }

    proptest! {
        /// Every way in which a double is usually written is accepted.
        #[test]
        fn every_double_fits(value in any::<f64>()) {
            prop_assume!(value.is_finite());
            let json = serde_json::to_string(&value).unwrap();
            for text in [json, format!("{value:e}"), format!("{value:.16e}")] {
                prop_assert!(fits(&text), "{}", text);
                prop_assert!(fits(&nearest(&text)));
            }
        }

        /// Reading an accepted number as a double and writing it again changes at most digits beyond the seventeenth.
        #[test]
        fn accepted_numbers_are_read_back(token in "-?(0|[1-9][0-9]{0,40})(\\.[0-9]{1,40})?([eE][+-]?[0-9]{1,3})?") {
            let near = nearest(&token);
            prop_assert!(near == "null" || fits(&near), "{} from {}", near, token);
            if fits(&token) {
                let (ours, again) = (value(&token), value(&near));
                prop_assert_eq!(ours.to_bits(), again.to_bits(), "{}", token);
            }
        }
    }
}
