//! What a quantity costs: per unit, in packages, by graduated or volume tiers. Pure; one rounding per line.

use serde::Serialize;

use super::decimal::Decimal;

/// One tier; amounts in minor units.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// The last unit of the tier; the last tier has no end.
    pub(super) up_to: Option<i64>,
    /// For every unit.
    pub(super) unit: Decimal,
    /// Once, if the tier is reached.
    pub(super) flat: Decimal,
}

/// How a price turns a quantity into money.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Tariff {
    /// The same for every unit.
    Unit(Decimal),
    /// For every package of `size` units.
    Package { unit: Decimal, size: i64, round: Round },
    /// Every unit by the tier it falls into.
    Graduated(Vec<Step>),
    /// All units by the tier the last one falls into.
    Volume(Vec<Step>),
}

/// What becomes of a package begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Round {
    Down,
    Up,
}

/// One line's worth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Part {
    /// Units, or packages' units; 0 for a flat fee.
    pub(super) quantity: i64,
    /// For one unit.
    pub(super) unit: Decimal,
    /// Minor units, rounded once.
    pub(super) amount: i64,
    /// 1 for the first tier.
    pub(super) tier: Option<usize>,
}

impl Tariff {
    /// The lines for a quantity (nothing is charged for less than none); at least one, and their sum is the price.
    pub(super) fn parts(&self, quantity: i64) -> Vec<Part> {
        let quantity = quantity.max(0);
        match self {
            Self::Unit(unit) => vec![part(quantity, *unit, None)],
            Self::Package { unit, size, round } => {
                let packages = match round {
                    Round::Down => quantity / size,
                    Round::Up => quantity / size + i64::from(quantity % size != 0),
                };
                vec![Part { quantity, unit: *unit, amount: unit.times(packages), tier: None }]
            }
            Self::Graduated(steps) => graduated(steps, quantity),
            Self::Volume(steps) => volume(steps, quantity),
        }
    }

    /// What a quantity costs, in minor units.
    pub(super) fn amount(&self, quantity: i64) -> i64 {
        self.parts(quantity).iter().map(|part| part.amount).sum()
    }
}

fn part(quantity: i64, unit: Decimal, tier: Option<usize>) -> Part {
    Part { quantity, unit, amount: unit.times(quantity), tier }
}

fn flat(step: &Step, tier: usize) -> Option<Part> {
    let amount = step.flat.times(1);
    (amount != 0).then_some(Part { quantity: 0, unit: step.flat, amount, tier: Some(tier) })
}

/// The first tier is always reached: its flat fee is due without any usage.
fn graduated(steps: &[Step], quantity: i64) -> Vec<Part> {
    let mut parts = Vec::new();
    let mut below = 0;
    for (n, step) in steps.iter().enumerate() {
        if n > 0 && quantity <= below {
            break;
        }
        let end = step.up_to.unwrap_or(i64::MAX).min(quantity);
        parts.push(part(end - below, step.unit, Some(n + 1)));
        parts.extend(flat(step, n + 1));
        below = end;
    }
    parts
}

fn volume(steps: &[Step], quantity: i64) -> Vec<Part> {
    let reached = steps.iter().enumerate().find(|(_, step)| step.up_to.is_none_or(|end| quantity <= end));
    let Some((n, step)) = reached else { return Vec::new() };
    let mut parts = vec![part(quantity, step.unit, Some(n + 1))];
    parts.extend(flat(step, n + 1));
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(up_to: Option<i64>, unit: &str, flat: i64) -> Step {
        Step { up_to, unit: Decimal::parse(unit).unwrap(), flat: Decimal::from(flat) }
    }

    /// Stripe, "Tiered pricing": 7.00 up to 5, 6.50 up to 10, 6.00 beyond.
    fn documented() -> Vec<Step> {
        vec![step(Some(5), "700", 0), step(Some(10), "650", 0), step(None, "600", 0)]
    }

    #[test]
    fn stripes_own_examples_of_tiers() {
        for (quantity, by_volume, by_graduation) in
            [(1, 700, 700), (5, 3_500, 3_500), (6, 3_900, 4_150), (20, 12_000, 12_750), (25, 15_000, 15_750)]
        {
            assert_eq!(Tariff::Volume(documented()).amount(quantity), by_volume, "volume {quantity}");
            assert_eq!(Tariff::Graduated(documented()).amount(quantity), by_graduation, "graduated {quantity}");
        }
    }

    #[test]
    fn a_tiers_flat_fee_is_due_once_it_is_reached_and_the_firsts_always() {
        let steps = vec![step(Some(5), "500", 1_000), step(Some(10), "400", 2_000), step(None, "300", 3_000)];
        for (quantity, by_volume, by_graduation) in [(0, 1_000, 1_000), (5, 3_500, 3_500), (6, 4_400, 5_900)] {
            assert_eq!(Tariff::Volume(steps.clone()).amount(quantity), by_volume, "volume {quantity}");
            assert_eq!(Tariff::Graduated(steps.clone()).amount(quantity), by_graduation, "graduated {quantity}");
        }
    }

    #[test]
    fn an_included_quantity_is_a_free_first_tier() {
        let steps = vec![step(Some(1_000), "0", 0), step(None, "0.5", 0)];
        let parts = Tariff::Graduated(steps).parts(1_235);
        assert_eq!(parts.iter().map(|p| (p.quantity, p.amount)).collect::<Vec<_>>(), [(1_000, 0), (235, 118)]);
    }

    #[test]
    fn packages_are_counted_up_or_down() {
        let package = |round| Tariff::Package { unit: Decimal::from(10), size: 1_000, round };
        for (quantity, up, down) in [(0, 0, 0), (1, 10, 0), (1_000, 10, 10), (1_001, 20, 10)] {
            assert_eq!((package(Round::Up).amount(quantity), package(Round::Down).amount(quantity)), (up, down));
        }
    }

    #[test]
    fn less_than_nothing_costs_nothing() {
        assert_eq!(Tariff::Unit(Decimal::from(3)).amount(-5), 0);
        assert_eq!(Tariff::Graduated(documented()).amount(-5), 0);
    }
}
