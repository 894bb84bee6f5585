//! A part of a period's price, to the second, and discounts over lines. Pure.

use super::decimal::Decimal;

/// `part` seconds' share of an amount for `whole` seconds, in minor units, rounded once, halves away from zero.
pub(super) fn share(amount: i64, part_s: i64, whole_s: i64) -> i64 {
    if whole_s <= 0 {
        return 0;
    }
    let part = i128::from(part_s.clamp(0, whole_s));
    divide(i128::from(amount) * part, i128::from(whole_s))
}

/// What a coupon takes off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Off {
    /// 0 to 100.
    Percent(Decimal),
    /// Minor units of the whole invoice.
    Amount(i64),
}

/// What `off` takes from each line, in minor units: a percentage of each line, rounded line by line; an amount from
/// the positive lines by their size, never more than they are.
pub(super) fn discounts(lines: &[i64], off: Off) -> Vec<i64> {
    match off {
        Off::Percent(percent) => lines.iter().map(|line| percent_of(*line, percent)).collect(),
        Off::Amount(amount) => spread(lines, amount),
    }
}

/// A percentage of an amount, rounded, halves away from zero.
fn percent_of(amount: i64, percent: Decimal) -> i64 {
    divide(i128::from(amount) * percent.units(), 100 * Decimal::ONE_UNITS)
}

/// Each line's share of an amount; the parts add up to it exactly.
fn spread(lines: &[i64], amount: i64) -> Vec<i64> {
    let whole: i64 = lines.iter().map(|line| (*line).max(0)).sum();
    let mut left = (amount.min(whole), whole);
    let each = |line: &i64| {
        let line = (*line).max(0);
        let (amount, whole) = left;
        let part = share(amount, line, whole);
        left = (amount - part, whole - line);
        part
    };
    lines.iter().map(each).collect()
}

/// A quotient, rounded to the nearest, halves away from zero.
fn divide(n: i128, d: i128) -> i64 {
    let magnitude = (n.abs() * 2 + d) / (d * 2);
    let magnitude = i64::try_from(magnitude).unwrap_or(i64::MAX);
    if n < 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    #[test]
    fn shares_of_a_period() {
        for (amount, part, whole, want) in [
            // Stripe, "Prorations": from 10 to 20 USD half-way through the month: 5 back, 10 to pay.
            (-1_000, 15 * DAY, 30 * DAY, -500),
            (2_000, 15 * DAY, 30 * DAY, 1_000),
            // To the second, rounded once.
            (999, 1, 3, 333),
            (1_000, 2, 3, 667),
            (1, 1, 2, 1),
            (-1, 1, 2, -1),
            (1_000, 0, 30 * DAY, 0),
            (1_000, 40 * DAY, 30 * DAY, 1_000),
            (1_000, 5, 0, 0),
        ] {
            assert_eq!(share(amount, part, whole), want, "{amount} {part}/{whole}");
        }
    }

    #[test]
    fn a_percentage_is_rounded_line_by_line() {
        let quarter = Off::Percent(Decimal::parse("25").unwrap());
        assert_eq!(discounts(&[2_900, 1, 2, -1_000], quarter), [725, 0, 1, -250]);
        let third = Off::Percent(Decimal::parse("33.33").unwrap());
        assert_eq!(discounts(&[10_000], third), [3_333]);
        assert_eq!(discounts(&[5], Off::Percent(Decimal::from(100))), [5]);
    }

    #[test]
    fn an_amount_is_spread_without_a_remainder() {
        assert_eq!(discounts(&[100, 100, 100], Off::Amount(100)), [33, 34, 33]);
        assert_eq!(discounts(&[300, -50, 100], Off::Amount(1_000)), [300, 0, 100]);
        assert_eq!(discounts(&[0, 0], Off::Amount(5)), [0, 0]);
    }
}
