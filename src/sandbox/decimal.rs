//! Decimals with up to 12 places, exact: Stripe's `unit_amount_decimal` and its like.

use std::fmt;

const PLACES: u32 = 12;
const ONE: i128 = 10_i128.pow(PLACES);
/// Minor units beyond any invoice (Stripe's own end at 12 digits), so that sums of lines cannot overflow.
const MAX_AMOUNT: i64 = 10_i64.pow(15);

/// A non-negative decimal, counted in units of 10⁻¹².
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Decimal(i128);

impl Decimal {
    /// Reads `12`, `0.5`, `.25`; `None` for anything else, more than 12 places or more than 15 digits before the point.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (whole, places) = text.split_once('.').unwrap_or((text, ""));
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        let short = whole.len() <= 15 && places.len() <= 12;
        if !short || !digits(whole) || !digits(places) || whole.is_empty() && places.is_empty() {
            return None;
        }
        let whole: i128 = if whole.is_empty() { 0 } else { whole.parse().ok()? };
        let places: i128 = format!("{places:0<12}").parse().ok()?;
        Some(Self(whole * ONE + places))
    }

    /// What 1 is counted as.
    pub(super) const ONE_UNITS: i128 = ONE;

    /// Nothing.
    pub(super) const ZERO: Self = Self(0);

    /// The value in units of 10⁻¹².
    pub(super) fn units(self) -> i128 {
        self.0
    }

    /// So many times the value, rounded once to a whole number, halves up; at most [`MAX_AMOUNT`].
    pub(super) fn times(self, quantity: i64) -> i64 {
        let product = self.0.saturating_mul(i128::from(quantity));
        let rounded = product.saturating_add(ONE / 2).div_euclid(ONE);
        i64::try_from(rounded).unwrap_or(MAX_AMOUNT).min(MAX_AMOUNT)
    }

    /// Minor units as major ones, with two places at least: 350 is `3.50`.
    pub(super) fn hundredth(self) -> String {
        let text = Self(self.0 / 100).to_string();
        match text.split_once('.') {
            None => format!("{text}.00"),
            Some((whole, places)) => format!("{whole}.{places:0<2}"),
        }
    }

    /// The value if it has no places.
    pub(super) fn whole(self) -> Option<i64> {
        (self.0 % ONE == 0).then(|| i64::try_from(self.0 / ONE).ok()).flatten()
    }
}

impl From<i64> for Decimal {
    fn from(whole: i64) -> Self {
        Self(i128::from(whole) * ONE)
    }
}

impl fmt::Display for Decimal {
    /// As Stripe echoes it: without needless zeros.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0 / ONE)?;
        match self.0 % ONE {
            0 => Ok(()),
            places => write!(f, ".{}", format!("{places:012}").trim_end_matches('0')),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_is_what_is_shown_without_needless_zeros() {
        for (text, shown) in
            [("3", "3"), ("3.00", "3"), ("0.5", "0.5"), (".25", "0.25"), ("0.000000000001", "0.000000000001")]
        {
            assert_eq!(Decimal::parse(text).unwrap().to_string(), shown);
        }
    }

    #[test]
    fn what_is_no_decimal_is_refused() {
        for text in ["", ".", "-1", "1e3", "1,5", "0.0000000000001", "1234567890123456"] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    #[test]
    fn products_are_rounded_once() {
        for (value, quantity, want) in [("0.5", 235, 118), ("0.4", 1, 0), ("3.5", 3, 11), ("29", 1, 29)] {
            assert_eq!(Decimal::parse(value).unwrap().times(quantity), want);
        }
        assert_eq!(Decimal::parse("999999999999999").unwrap().times(i64::MAX), MAX_AMOUNT);
    }

    #[test]
    fn only_whole_values_are_whole() {
        assert_eq!(Decimal::parse("29.0").unwrap().whole(), Some(29));
        assert_eq!(Decimal::parse("2.9").unwrap().whole(), None);
    }
}
