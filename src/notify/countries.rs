//! Which numbers may get text messages: `notify.sms.countries`, and the ranges that it must name explicitly, because
//! they cost more than ordinary messages and the owner of the number earns from them (toll fraud).

use crate::model::address::PhoneNumber;

/// Number prefixes, without `+`, that are refused unless an entry of the setting is at least as long.
///
/// International ranges: ITU-T E.164, annex to the Operational Bulletin 1114. National ranges: the numbering plans that
/// countries file with the ITU (ITU-T E.129). The list is incomplete by design: a service that knows its users'
/// countries should use the setting.
const REFUSED: &[&str] = &[
    // International: shared cost, premium rate, satellite, universal personal numbers, networks without a country.
    "808", "979", "870", "878", "881", "882", "883", "888", "991",
    // Freephone numbers, which receive no text messages.
    "800", "1800", "1833", "1844", "1855", "1866", "1877", "1888",
    // North America: 900 and 700 numbers.
    "1900", "1700", // Great Britain: personal numbers, service numbers, premium rate.
    "4470", "4484", "4487",
    "449", // Germany: premium rate, shared cost, mass calls, premium information services.
    "49900", "49137", "49180", "49118", "49700", // France: numbers at a higher price.
    "3389", "3381", "3382", // Spain.
    "34803", "34806", "34807", "34905", "34907", "34901", "34902", // Italy.
    "39892", "39894", "39895", "39899", "39144", "39166", // Netherlands, Belgium.
    "31900", "31906", "31909", "3290", // Austria, Switzerland.
    "43900", "43901", "43930", "43931", "43939", "41900", "41901", "41906",
    // Ireland, Portugal, Poland, Sweden, Norway, Denmark, Finland.
    "35315", "351607", "351707", "351760", "48700", "48701", "48703", "48704", "46900", "46939",
    "46944", "47820", "47829", "4590", "358600",
    "358700", // Australia, New Zealand, Japan, South Korea.
    "6119", "6113", "64900", "81990", "81570", "8260",
];

/// Whether text messages may be sent to `number` (E.164). The longest matching prefix decides, among allowed and
/// refused ones; if the setting is empty, all numbers are allowed that are not refused.
pub fn allowed(number: &PhoneNumber, countries: &[String]) -> bool {
    let digits = number.as_str().trim_start_matches('+');
    let named = countries.iter().filter_map(|entry| entry.strip_prefix('+'));
    let refused = longest(digits, REFUSED.iter().copied());
    match longest(digits, named) {
        Some(named) => refused.is_none_or(|refused| named >= refused),
        None => countries.is_empty() && refused.is_none(),
    }
}

fn longest<'a>(digits: &str, prefixes: impl Iterator<Item = &'a str>) -> Option<usize> {
    prefixes
        .filter(|prefix| digits.starts_with(prefix))
        .map(str::len)
        .max()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goes(number: &str, countries: &[&str]) -> bool {
        let countries: Vec<String> = countries.iter().map(|c| (*c).to_owned()).collect();
        allowed(&PhoneNumber::parse(number).unwrap(), &countries)
    }

    #[test]
    fn everywhere_but_where_it_costs_more() {
        for good in [
            "+4915112345678",
            "+15550006789",
            "+447911123456",
            "+6591234567",
        ] {
            assert!(goes(good, &[]), "{good}");
        }
        for bad in [
            "+19005551234",
            "+4990012345678",
            "+447012345678",
            "+979123456789",
            "+881612345678",
        ] {
            assert!(!goes(bad, &[]), "{bad}");
        }
    }

    #[test]
    fn only_where_it_is_allowed() {
        assert!(goes("+4915112345678", &["+49", "+1"]));
        assert!(goes("+15550006789", &["+49", "+1"]));
        assert!(!goes("+447911123456", &["+49", "+1"]));
        assert!(!goes("+4990012345678", &["+49"]), "a country is no range");
        assert!(goes("+4990012345678", &["+49900"]));
        assert!(goes("+4990012345678", &["+49", "+499001"]));
        assert!(!goes("+4915112345678", &["+49900"]));
    }
}
