//! `/v1/prices`

use serde::Serialize;
use serde_json::{Value, json};

use super::cycle::Interval;
use super::decimal::Decimal;
use super::errors::ApiError;
use super::expand::Expand;
use super::params::{Change, Metadata, Params, TEXT, merge_metadata};
use super::price_draft::{Amount, Draft, Recurring, Scheme, Tier, TransformQuantity, UsageType};
use super::products::{self, Product};
use super::shelf::{Created, Cursor, list};
use super::store::{Call, Store};
use super::tiers::Tariff;

const EXPANDABLE: &[&str] = &["product", "tiers"];
const TAX: &[(&str, &str)] = &[("exclusive", "exclusive"), ("inclusive", "inclusive"), ("unspecified", "unspecified")];
const TYPES: &[(&str, &str)] = &[("one_time", "one_time"), ("recurring", "recurring")];
const USAGE: &[(&str, UsageType)] = &[("licensed", UsageType::Licensed), ("metered", UsageType::Metered)];
const LOOKUP_KEY: usize = 200;

/// A price, as Stripe shows it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Price {
    pub(super) id: String,
    object: &'static str,
    active: bool,
    billing_scheme: Scheme,
    created: i64,
    pub(super) currency: String,
    custom_unit_amount: Option<Value>,
    livemode: bool,
    lookup_key: Option<String>,
    metadata: Metadata,
    nickname: Option<String>,
    pub(super) product: String,
    recurring: Option<Recurring>,
    tax_behavior: &'static str,
    /// Shown only when expanded.
    #[serde(skip)]
    tiers: Vec<Tier>,
    tiers_mode: Option<&'static str>,
    transform_quantity: Option<TransformQuantity>,
    r#type: &'static str,
    unit_amount: Option<i64>,
    unit_amount_decimal: Option<String>,
}

impl Price {
    fn new(id: String, product: String, draft: Draft, now_s: i64) -> Self {
        Self {
            id,
            object: "price",
            active: true,
            billing_scheme: draft.scheme,
            created: now_s,
            currency: draft.currency,
            custom_unit_amount: None,
            livemode: false,
            lookup_key: None,
            metadata: Metadata::new(),
            nickname: None,
            product,
            r#type: if draft.recurring.is_some() { "recurring" } else { "one_time" },
            recurring: draft.recurring,
            tax_behavior: "unspecified",
            tiers: draft.tiers,
            tiers_mode: draft.tiers_mode,
            transform_quantity: draft.transform_quantity,
            unit_amount: draft.amount.and_then(Amount::whole),
            unit_amount_decimal: draft.amount.map(Amount::decimal),
        }
    }

    /// Takes every parameter that create and update share.
    fn change(&mut self, params: &mut Params) -> Result<(), ApiError> {
        self.active = params.boolean("active")?.unwrap_or(self.active);
        self.tax_behavior = params.choice("tax_behavior", TAX)?.unwrap_or(self.tax_behavior);
        params.clearable_text("nickname", TEXT)?.apply(&mut self.nickname);
        params.clearable_text("lookup_key", LOOKUP_KEY)?.apply(&mut self.lookup_key);
        merge_metadata(&mut self.metadata, params.metadata()?)
    }

    pub(super) fn is_active(&self) -> bool {
        self.active
    }

    pub(super) fn is_recurring(&self) -> bool {
        self.recurring.is_some()
    }

    pub(super) fn usage_type(&self) -> UsageType {
        self.recurring.as_ref().map_or(UsageType::Licensed, |recurring| recurring.usage_type)
    }

    pub(super) fn is_metered(&self) -> bool {
        self.usage_type() == UsageType::Metered
    }

    /// The meter of a metered price; `None` for one with usage records.
    pub(super) fn meter(&self) -> Option<&str> {
        self.recurring.as_ref()?.meter.as_deref()
    }

    /// How often it is billed; a month where it is not recurring.
    pub(super) fn interval(&self) -> (Interval, i64) {
        self.recurring.as_ref().map_or((Interval::Month, 1), |recurring| (recurring.interval, recurring.interval_count))
    }

    /// How quantities become money.
    pub(super) fn tariff(&self) -> Tariff {
        let unit = self.unit_amount_decimal.as_deref().and_then(Decimal::parse).unwrap_or(Decimal::ZERO);
        let steps = || self.tiers.iter().map(Tier::step).collect();
        match (self.tiers_mode, &self.transform_quantity) {
            (Some("volume"), _) => Tariff::Volume(steps()),
            (Some(_), _) => Tariff::Graduated(steps()),
            (None, Some(package)) => Tariff::Package { unit, size: package.divide_by, round: package.round },
            (None, None) => Tariff::Unit(unit),
        }
    }

    /// A unit amount in words: `$0.05`, `EUR 0.05`.
    pub(super) fn money(&self, minor: Decimal) -> String {
        let amount = minor.hundredth();
        if self.currency == "usd" { format!("${amount}") } else { format!("{} {amount}", self.currency.to_uppercase()) }
    }

    /// As it is shown inside of other objects.
    pub(super) fn plain(&self) -> Value {
        json!(self)
    }

    /// `tiers`, which are shown when expanded.
    pub(super) fn tiers(&self) -> Option<Value> {
        (self.billing_scheme == Scheme::Tiered).then(|| json!(self.tiers))
    }

    pub(super) fn shown(&self, store: &Store, expand: &Expand) -> Value {
        let mut shown = json!(self);
        if expand.has("tiers") && self.billing_scheme == Scheme::Tiered {
            shown["tiers"] = json!(self.tiers);
        }
        if let Some(product) = store.products.get(&self.product).filter(|_| expand.has("product")) {
            shown["product"] = json!(product);
        }
        shown
    }
}

/// Whether a lookup key that another price has may be taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transfer {
    Refuse,
    Move,
}

impl Transfer {
    fn take(params: &mut Params) -> Result<Self, ApiError> {
        let may = params.boolean("transfer_lookup_key")?.unwrap_or(false);
        Ok(if may { Self::Move } else { Self::Refuse })
    }
}

/// `POST /v1/prices`
pub(super) fn create(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let expand = Expand::of_object(&mut call.params, EXPANDABLE)?;
    let draft = Draft::read(&mut call.params, call.legacy)?;
    let transfer = Transfer::take(&mut call.params)?;
    let home = Home::read(store, &mut call)?;
    let now_s = call.now_s();
    let mut price = Price::new(store.ids.make("price"), home.id().to_owned(), draft, now_s);
    price.change(&mut call.params)?;
    call.finish()?;
    active_meter(store, price.recurring.as_ref())?;
    free_lookup_key(store, &price, transfer)?;
    store.prices.check_room()?;
    if let Home::New(product) = home {
        products::put(store, *product)?;
    }
    release_lookup_key(store, &price);
    let shown = price.shown(store, &expand);
    store.prices.put(price.id.clone(), price)?;
    Ok(shown)
}

/// `GET /v1/prices/{price}`
pub(super) fn retrieve(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let expand = Expand::of_object(&mut call.params, EXPANDABLE)?;
    call.finish()?;
    Ok(store.prices.need(id, "price")?.shown(store, &expand))
}

/// `POST /v1/prices/{price}`: amounts never change.
pub(super) fn update(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let expand = Expand::of_object(&mut call.params, EXPANDABLE)?;
    call.params.unsupported(&["currency_options"])?;
    let transfer = Transfer::take(&mut call.params)?;
    let mut changed = store.prices.need(id, "price")?.clone();
    changed.change(&mut call.params)?;
    call.finish()?;
    free_lookup_key(store, &changed, transfer)?;
    release_lookup_key(store, &changed);
    let shown = changed.shown(store, &expand);
    *store.prices.need_mut(id, "price")? = changed;
    Ok(shown)
}

/// `GET /v1/prices`
pub(super) fn list_all(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let expand = Expand::of_list(&mut call.params, EXPANDABLE)?;
    let cursor = Cursor::take(&mut call.params)?;
    let filter = PriceFilter::read(&mut call.params)?;
    call.finish()?;
    let (page, more) = store.prices.page(&cursor, |price| filter.holds(price))?;
    Ok(list("/v1/prices", page.into_iter().map(|price| price.shown(store, &expand)), more))
}

/// The product a new price belongs to: one that is there, or one made with it.
enum Home {
    Known(String),
    New(Box<Product>),
}

impl Home {
    fn read(store: &mut Store, call: &mut Call) -> Result<Self, ApiError> {
        let now_s = call.now_s();
        match (call.params.text("product", TEXT)?, call.params.object("product_data")?) {
            (Some(id), None) => store.products.refer(&id, "product").map(|_| Self::Known(id.clone())),
            (None, Some(mut data)) => {
                let product = Product::read(&mut store.ids, &mut data, now_s)?;
                data.finish().map(|()| Self::New(Box::new(product)))
            }
            (None, None) => Err(ApiError::missing("product")),
            (Some(_), Some(_)) => {
                let message = "You may only specify one of these parameters: product, product_data.";
                Err(ApiError::invalid(message).param("product"))
            }
        }
    }

    fn id(&self) -> &str {
        match self {
            Self::Known(id) => id,
            Self::New(product) => &product.id,
        }
    }
}

#[derive(Debug, Default)]
struct PriceFilter {
    created: Created,
    active: Option<bool>,
    currency: Option<String>,
    product: Option<String>,
    lookup_keys: Option<Vec<String>>,
    r#type: Option<&'static str>,
    interval: Option<Interval>,
    meter: Option<String>,
    usage_type: Option<UsageType>,
}

impl PriceFilter {
    fn read(params: &mut Params) -> Result<Self, ApiError> {
        let mut filter = Self {
            created: Created::take(params)?,
            active: params.boolean("active")?,
            currency: params.text("currency", TEXT)?,
            product: params.text("product", TEXT)?,
            lookup_keys: params.texts("lookup_keys", TEXT)?,
            r#type: params.choice("type", TYPES)?,
            ..Self::default()
        };
        if let Some(mut recurring) = params.object("recurring")? {
            filter.interval = recurring.choice("interval", Interval::TABLE)?;
            filter.meter = recurring.text("meter", TEXT)?;
            filter.usage_type = recurring.choice("usage_type", USAGE)?;
            recurring.finish()?;
        }
        Ok(filter)
    }

    fn holds(&self, price: &Price) -> bool {
        let keys = |keys: &Vec<String>| price.lookup_key.as_ref().is_some_and(|key| keys.contains(key));
        self.created.holds(price.created)
            && self.active.is_none_or(|active| price.active == active)
            && self.currency.as_ref().is_none_or(|currency| price.currency == *currency)
            && self.product.as_ref().is_none_or(|product| price.product == *product)
            && self.lookup_keys.as_ref().is_none_or(keys)
            && self.r#type.is_none_or(|kind| price.r#type == kind)
            && self.holds_recurring(price.recurring.as_ref())
    }

    fn holds_recurring(&self, recurring: Option<&Recurring>) -> bool {
        let Some(recurring) = recurring else {
            return self.interval.is_none() && self.meter.is_none() && self.usage_type.is_none();
        };
        self.interval.is_none_or(|interval| recurring.interval == interval)
            && (self.meter.is_none() || recurring.meter == self.meter)
            && self.usage_type.is_none_or(|usage| recurring.usage_type == usage)
    }
}

fn active_meter(store: &Store, recurring: Option<&Recurring>) -> Result<(), ApiError> {
    let Some(id) = recurring.and_then(|recurring| recurring.meter.as_ref()) else { return Ok(()) };
    if store.meters.refer(id, "recurring[meter]")?.is_active() {
        return Ok(());
    }
    Err(ApiError::invalid(format!("The meter `{id}` is not active.")).param("recurring[meter]").executed())
}

/// One lookup key, one price.
fn free_lookup_key(store: &Store, price: &Price, transfer: Transfer) -> Result<(), ApiError> {
    match holder_of_key(store, price) {
        Some(holder) if transfer == Transfer::Refuse => {
            let message = format!("A price (`{}`) already uses that lookup key.", holder.id);
            Err(ApiError::invalid(message).code("resource_already_exists").param("lookup_key").executed())
        }
        Some(_) | None => Ok(()),
    }
}

/// Takes the key from the price that had it.
fn release_lookup_key(store: &mut Store, price: &Price) {
    if price.lookup_key.is_some() {
        let holds = |other: &&mut Price| other.id != price.id && other.lookup_key == price.lookup_key;
        store.prices.iter_mut().filter(holds).for_each(|holder| Change::Clear.apply(&mut holder.lookup_key));
    }
}

fn holder_of_key<'a>(store: &'a Store, price: &Price) -> Option<&'a Price> {
    price.lookup_key.as_ref()?;
    store.prices.iter().find(|other| other.id != price.id && other.lookup_key == price.lookup_key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::desk::Desk;

    fn flat(product: &str, rest: &str) -> String {
        format!("currency=usd&unit_amount=2900&product={product}&recurring[interval]=month{rest}")
    }

    #[test]
    fn a_lookup_key_belongs_to_one_price_and_moves_on_request() {
        let mut desk = Desk::new();
        let product = desk.make("/v1/products", "name=Starter");
        let first = desk.make("/v1/prices", &flat(&product, "&lookup_key=starter"));
        let (status, refused) = desk.post("/v1/prices", &flat(&product, "&lookup_key=starter"));
        assert_eq!((status, &refused["error"]["code"]), (400, &json!("resource_already_exists")));
        let second = desk.make("/v1/prices", &flat(&product, "&lookup_key=starter&transfer_lookup_key=true"));
        assert_eq!(desk.get(&format!("/v1/prices/{first}")).1["lookup_key"], Value::Null);
        let (_, found) = desk.get("/v1/prices?lookup_keys[]=starter&active=true");
        assert_eq!((found["data"].as_array().unwrap().len(), &found["data"][0]["id"]), (1, &json!(second)));
    }

    #[test]
    fn a_metered_price_needs_an_active_meter() {
        let (mut desk, _, meter) = Desk::with_meter();
        let product = desk.make("/v1/products", "name=Overage");
        let body = |meter: &str| flat(&product, &format!("&recurring[usage_type]=metered&recurring[meter]={meter}"));
        let (status, refused) = desk.post("/v1/prices", &body("mtr_none"));
        assert_eq!((status, &refused["error"]["param"]), (400, &json!("recurring[meter]")));
        let price = desk.make("/v1/prices", &body(&meter));
        assert_eq!(desk.get(&format!("/v1/prices/{price}")).1["recurring"]["meter"], json!(meter));
        let (_, found) = desk.get(&format!("/v1/prices?recurring[meter]={meter}"));
        assert_eq!(found["data"][0]["id"], json!(price));
        desk.post(&format!("/v1/billing/meters/{meter}/deactivate"), "");
        assert_eq!(desk.post("/v1/prices", &body(&meter)).0, 400);
    }

    #[test]
    fn tiers_and_product_are_shown_when_asked_for() {
        let mut desk = Desk::new();
        let body = "currency=usd&billing_scheme=tiered&tiers_mode=graduated&tiers[0][up_to]=1000&tiers[0][unit_amount]=0\
                    &tiers[1][up_to]=inf&tiers[1][unit_amount_decimal]=0.5&product_data[name]=Pro";
        let price = desk.make("/v1/prices", body);
        let url = format!("/v1/prices/{price}");
        assert_eq!(desk.get(&url).1["tiers"], Value::Null);
        let (_, whole) = desk.get(&format!("{url}?expand[]=tiers&expand[]=product"));
        assert_eq!(whole["tiers"][1]["unit_amount_decimal"], "0.5");
        assert_eq!((&whole["tiers"][1]["up_to"], &whole["product"]["name"]), (&Value::Null, &json!("Pro")));
    }

    #[test]
    fn a_refused_price_leaves_no_product_behind() {
        let mut desk = Desk::new();
        assert_eq!(desk.post("/v1/prices", "currency=usd&unit_amount=1&product_data[name]=Pro&colour=red").0, 400);
        assert_eq!(desk.get("/v1/products").1["data"], json!([]));
    }
}
