//! Amounts of a currency's main unit become whole minor units, as Stripe counts them.

use rust_decimal::Decimal;
use rust_decimal::prelude::ToPrimitive;

use super::check::Cursor;
use super::scalar::DECIMAL;

/// How a currency is written at Stripe (<https://docs.stripe.com/currencies>).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Places {
    /// Decimal places of the minor unit.
    pub(super) minor: u32,
    /// Places an amount may really have: fewer where Stripe wants whole units or tens.
    pub(super) used: u32,
}

impl Places {
    pub(super) fn of(currency: &str) -> Self {
        match currency {
            "bif" | "clp" | "djf" | "gnf" | "jpy" | "kmf" | "krw" | "mga" | "pyg" | "rwf" | "vnd" | "vuv" | "xaf"
            | "xof" | "xpf" => Self { minor: 0, used: 0 },
            // Written with two places for old times' sake; amounts must be whole units.
            "isk" | "ugx" => Self { minor: 2, used: 0 },
            // The last place must be 0.
            "bhd" | "jod" | "kwd" | "omr" | "tnd" => Self { minor: 3, used: 2 },
            _ => Self { minor: 2, used: 2 },
        }
    }
}

/// The amount at `cursor` in minor units.
pub(super) fn minor(cursor: &Cursor<'_>, currency: &str) -> Option<i64> {
    let places = Places::of(currency);
    let amount = cursor.read(&DECIMAL)?;
    let minor = to_minor(amount, places);
    if minor.is_none() {
        let allowed = format!("at most {} decimal places for {currency}", places.used);
        cursor.wrong(format!("{} is finer than the currency", cursor.found()), allowed);
    }
    minor
}

fn to_minor(amount: Decimal, places: Places) -> Option<i64> {
    if amount.normalize().scale() > places.used {
        return None;
    }
    amount.checked_mul(Decimal::from(10_u64.pow(places.minor)))?.to_i64()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn minor_units() {
        let minor = |text: &str, currency| to_minor(text.parse().unwrap(), Places::of(currency));
        assert_eq!(minor("29", "usd"), Some(2900));
        assert_eq!(minor("29.5", "usd"), Some(2950));
        assert_eq!(minor("29.500", "usd"), Some(2950));
        assert_eq!(minor("29.505", "usd"), None);
        assert_eq!(minor("500", "jpy"), Some(500));
        assert_eq!(minor("0.5", "jpy"), None);
        assert_eq!(minor("5", "isk"), Some(500));
        assert_eq!(minor("5.12", "kwd"), Some(5120));
        assert_eq!(minor("5.123", "kwd"), None);
        assert_eq!(minor("999999999999999", "kwd"), Some(999_999_999_999_999_000));
    }
}
