//! What a new price may look like: amounts, tiers, recurrence. Pure.

use serde::Serialize;

use super::cycle::Interval;
use super::decimal::Decimal;
use super::errors::ApiError;
use super::params::{Params, TEXT};
use super::store::Legacy;
use super::tiers::{Round, Step};

const SCHEMES: &[(&str, Scheme)] = &[("per_unit", Scheme::PerUnit), ("tiered", Scheme::Tiered)];
const USAGE: &[(&str, UsageType)] = &[("licensed", UsageType::Licensed), ("metered", UsageType::Metered)];
const TIERS_MODES: &[(&str, &str)] = &[("graduated", "graduated"), ("volume", "volume")];
const ROUNDINGS: &[(&str, Round)] = &[("down", Round::Down), ("up", Round::Up)];
const NOT_YET: &[&str] = &["currency_options", "custom_unit_amount"];

/// One amount for every unit, or tiers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Scheme {
    PerUnit,
    Tiered,
}

/// A quantity on the subscription, or a meter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum UsageType {
    Licensed,
    Metered,
}

/// An amount in minor units: the integer only where it is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Amount(Decimal);

impl Amount {
    /// As `unit_amount`.
    pub(super) fn whole(self) -> Option<i64> {
        self.0.whole()
    }

    /// As `unit_amount_decimal`.
    pub(super) fn decimal(self) -> String {
        self.0.to_string()
    }

    /// Takes `{key}` or `{key}_decimal`, not both.
    fn take(params: &mut Params, key: &str) -> Result<Option<Self>, ApiError> {
        let decimal_key = format!("{key}_decimal");
        let (whole, decimal) = (params.integer(key)?, params.decimal(&decimal_key)?);
        match (whole, decimal) {
            (Some(_), Some(_)) => {
                let message = format!("You may only specify one of these parameters: {key}, {decimal_key}.");
                Err(ApiError::invalid(message).param(&params.name(key)))
            }
            (Some(negative), None) if negative < 0 => {
                Err(ApiError::invalid(format!("Invalid non-negative integer: {negative}")).param(&params.name(key)))
            }
            (Some(whole), None) => Ok(Some(Self(Decimal::from(whole)))),
            (None, decimal) => Ok(decimal.map(Self)),
        }
    }
}

/// One tier; the last one has no end.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Tier {
    flat_amount: Option<i64>,
    flat_amount_decimal: Option<String>,
    unit_amount: Option<i64>,
    unit_amount_decimal: Option<String>,
    up_to: Option<i64>,
}

impl Tier {
    /// For arithmetic.
    pub(super) fn step(&self) -> Step {
        let decimal = |text: &Option<String>| text.as_deref().and_then(Decimal::parse).unwrap_or(Decimal::ZERO);
        Step { up_to: self.up_to, unit: decimal(&self.unit_amount_decimal), flat: decimal(&self.flat_amount_decimal) }
    }
}

/// How often, and of what.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Recurring {
    pub(super) interval: Interval,
    pub(super) interval_count: i64,
    pub(super) meter: Option<String>,
    trial_period_days: Option<i64>,
    pub(super) usage_type: UsageType,
}

/// Packages: quantities are divided before they are priced.
#[derive(Clone, Debug, Serialize)]
pub(super) struct TransformQuantity {
    pub(super) divide_by: i64,
    pub(super) round: Round,
}

/// The priced part of a new price, consistent in itself.
#[derive(Clone, Debug)]
pub(super) struct Draft {
    pub(super) currency: String,
    pub(super) scheme: Scheme,
    pub(super) amount: Option<Amount>,
    pub(super) tiers: Vec<Tier>,
    pub(super) tiers_mode: Option<&'static str>,
    pub(super) recurring: Option<Recurring>,
    pub(super) transform_quantity: Option<TransformQuantity>,
}

impl Draft {
    /// Reads and checks what the price says about amounts and recurrence.
    pub(super) fn read(params: &mut Params, legacy: Legacy) -> Result<Self, ApiError> {
        params.unsupported(NOT_YET)?;
        let currency = currency(params)?;
        let scheme = params.choice("billing_scheme", SCHEMES)?.unwrap_or(Scheme::PerUnit);
        let amount = Amount::take(params, "unit_amount")?;
        let tiers = params.objects("tiers")?.unwrap_or_default();
        let tiers = tiers.into_iter().map(tier).collect::<Result<Vec<_>, _>>()?;
        let tiers_mode = params.choice("tiers_mode", TIERS_MODES)?;
        let recurring = params.object("recurring")?.map(|inner| recurring(inner, legacy)).transpose()?;
        let transform_quantity = params.object("transform_quantity")?.map(transform).transpose()?;
        let draft = Self { currency, scheme, amount, tiers, tiers_mode, recurring, transform_quantity };
        draft.check()?;
        Ok(draft)
    }

    fn check(&self) -> Result<(), ApiError> {
        match self.scheme {
            Scheme::PerUnit if !self.tiers.is_empty() || self.tiers_mode.is_some() => {
                Err(ApiError::invalid("`tiers` and `tiers_mode` need `billing_scheme=tiered`.").param("tiers"))
            }
            Scheme::PerUnit if self.amount.is_none() => Err(ApiError::missing("unit_amount")),
            Scheme::PerUnit => Ok(()),
            Scheme::Tiered => self.check_tiered(),
        }
    }

    fn check_tiered(&self) -> Result<(), ApiError> {
        if self.tiers_mode.is_none() {
            return Err(ApiError::missing("tiers_mode"));
        }
        if self.amount.is_some() {
            return Err(ApiError::invalid("A tiered price has no `unit_amount`.").param("unit_amount"));
        }
        if self.transform_quantity.is_some() {
            let message = "`transform_quantity` cannot be used together with `billing_scheme=tiered`.";
            return Err(ApiError::invalid(message).param("transform_quantity"));
        }
        check_order(&self.tiers)
    }
}

/// Ends rise, and only the last tier has none.
fn check_order(tiers: &[Tier]) -> Result<(), ApiError> {
    let Some((last, before)) = tiers.split_last() else { return Err(ApiError::missing("tiers")) };
    let ends: Vec<Option<i64>> = before.iter().map(|tier| tier.up_to).collect();
    let rising = ends.windows(2).all(|pair| pair[0] < pair[1]);
    if last.up_to.is_some() || ends.contains(&None) || !rising || ends.first().is_some_and(|end| *end < Some(1)) {
        let message = "Invalid tiers: `up_to` must rise from tier to tier, and be `inf` in the last one only.";
        return Err(ApiError::invalid(message).param("tiers"));
    }
    Ok(())
}

fn currency(params: &mut Params) -> Result<String, ApiError> {
    let given = params.required_text("currency", TEXT)?;
    if given.len() == 3 && given.bytes().all(|b| b.is_ascii_alphabetic()) {
        return Ok(given.to_ascii_lowercase());
    }
    Err(ApiError::invalid(format!("Invalid currency: {given}")).param("currency"))
}

fn tier(mut params: Params) -> Result<Tier, ApiError> {
    let name = params.name("up_to");
    let up_to = match params.required_text("up_to", TEXT)?.as_str() {
        "inf" => None,
        text => {
            let wrong =
                || ApiError::invalid(format!("Invalid up_to: {text} is neither an integer nor inf")).param(&name);
            Some(text.parse().map_err(|_| wrong())?)
        }
    };
    let (flat, unit) = (Amount::take(&mut params, "flat_amount")?, Amount::take(&mut params, "unit_amount")?);
    if flat.is_none() && unit.is_none() {
        return Err(ApiError::missing(&params.name("unit_amount")));
    }
    params.finish()?;
    Ok(Tier {
        flat_amount: flat.and_then(Amount::whole),
        flat_amount_decimal: flat.map(Amount::decimal),
        unit_amount: unit.and_then(Amount::whole),
        unit_amount_decimal: unit.map(Amount::decimal),
        up_to,
    })
}

fn recurring(mut params: Params, legacy: Legacy) -> Result<Recurring, ApiError> {
    if legacy == Legacy::Yes {
        // The only aggregation of usage records that the sandbox has.
        params.choice("aggregate_usage", &[("sum", ())])?;
    }
    let recurring = Recurring {
        interval: params.required_choice("interval", Interval::TABLE)?,
        interval_count: params.integer("interval_count")?.unwrap_or(1),
        meter: params.text("meter", TEXT)?,
        trial_period_days: None,
        usage_type: params.choice("usage_type", USAGE)?.unwrap_or(UsageType::Licensed),
    };
    params.finish()?;
    if !(1..=1_095).contains(&recurring.interval_count) {
        return Err(ApiError::invalid("Invalid interval_count").param("recurring[interval_count]"));
    }
    match (recurring.usage_type, &recurring.meter) {
        (UsageType::Metered, None) if legacy == Legacy::No => {
            // Since API version 2025-03-31.basil.
            Err(ApiError::invalid("A metered price must be backed by a meter.").param("recurring[meter]"))
        }
        (UsageType::Licensed, Some(_)) => {
            Err(ApiError::invalid("A price with a meter must have `usage_type=metered`.")
                .param("recurring[usage_type]"))
        }
        (UsageType::Metered, _) | (UsageType::Licensed, None) => Ok(recurring),
    }
}

fn transform(mut params: Params) -> Result<TransformQuantity, ApiError> {
    let name = params.name("divide_by");
    let divide_by = params.integer("divide_by")?.ok_or_else(|| ApiError::missing(&name))?;
    if divide_by < 1 {
        return Err(ApiError::invalid(format!("Invalid positive integer: {divide_by}")).param(&name));
    }
    let round = params.required_choice("round", ROUNDINGS)?;
    params.finish().map(|()| TransformQuantity { divide_by, round })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::form;

    fn read(raw: &str) -> Result<Draft, ApiError> {
        Draft::read(&mut Params::new(form::parse(raw).unwrap()), Legacy::No)
    }

    fn refused(raw: &str) -> String {
        read(raw).unwrap_err().param.unwrap_or_default()
    }

    #[test]
    fn fractions_of_a_cent_have_no_whole_amount() {
        let draft = read("currency=USD&unit_amount_decimal=0.50").unwrap();
        assert_eq!(draft.currency, "usd");
        assert_eq!((draft.amount.unwrap().whole(), draft.amount.unwrap().decimal()), (None, "0.5".to_owned()));
        assert_eq!(read("currency=usd&unit_amount_decimal=3.0").unwrap().amount.unwrap().whole(), Some(3));
    }

    #[test]
    fn tiers_rise_and_end_with_inf() {
        let tiers = |ends: [&str; 2]| {
            let each = |(n, end): (usize, &str)| format!("tiers[{n}][up_to]={end}&tiers[{n}][unit_amount]=1");
            let tiers: Vec<String> = ends.into_iter().enumerate().map(each).collect();
            format!("currency=usd&billing_scheme=tiered&tiers_mode=graduated&{}", tiers.join("&"))
        };
        assert_eq!(read(&tiers(["1000", "inf"])).unwrap().tiers[0].up_to, Some(1_000));
        for ends in [["1000", "2000"], ["inf", "2000"], ["inf", "inf"], ["0", "inf"]] {
            assert_eq!(refused(&tiers(ends)), "tiers", "{ends:?}");
        }
        assert_eq!(refused("currency=usd&billing_scheme=tiered&tiers_mode=volume"), "tiers");
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        assert_eq!(refused("currency=usd"), "unit_amount");
        assert_eq!(refused("currency=dollar&unit_amount=1"), "currency");
        assert_eq!(refused("currency=usd&unit_amount=-1"), "unit_amount");
        assert_eq!(refused("currency=usd&unit_amount=1&unit_amount_decimal=1"), "unit_amount");
        assert_eq!(refused("currency=usd&unit_amount=1&tiers_mode=volume"), "tiers");
        let monthly = "currency=usd&unit_amount=1&recurring[interval]=month";
        assert_eq!(refused(&format!("{monthly}&recurring[usage_type]=metered")), "recurring[meter]");
        assert_eq!(refused(&format!("{monthly}&recurring[meter]=mtr_1")), "recurring[usage_type]");
    }
}
