//! `/v1/products`

use serde::Serialize;
use serde_json::{Value, json};

use super::errors::ApiError;
use super::expand::Expand;
use super::params::{Metadata, Params, TEXT, merge_metadata};
use super::prices::Price;
use super::shelf::{Created, Cursor, list};
use super::store::{Call, Ids, Store};

const EXPANDABLE: &[&str] = &["default_price"];
const NOT_YET: &[&str] = &["default_price_data", "package_dimensions"];

/// A product, as Stripe shows it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Product {
    pub(super) id: String,
    object: &'static str,
    active: bool,
    created: i64,
    default_price: Option<String>,
    description: Option<String>,
    images: Vec<String>,
    livemode: bool,
    marketing_features: Vec<Feature>,
    metadata: Metadata,
    pub(super) name: String,
    package_dimensions: Option<Value>,
    shippable: Option<bool>,
    statement_descriptor: Option<String>,
    tax_code: Option<String>,
    r#type: &'static str,
    unit_label: Option<String>,
    updated: i64,
    url: Option<String>,
}

#[derive(Clone, Debug, Serialize)]
struct Feature {
    name: String,
}

impl Product {
    fn new(id: String, name: String, now_s: i64) -> Self {
        Self {
            id,
            object: "product",
            active: true,
            created: now_s,
            default_price: None,
            description: None,
            images: Vec::new(),
            livemode: false,
            marketing_features: Vec::new(),
            metadata: Metadata::new(),
            name,
            package_dimensions: None,
            shippable: None,
            statement_descriptor: None,
            tax_code: None,
            r#type: "service",
            unit_label: None,
            updated: now_s,
            url: None,
        }
    }

    /// Reads a new product, from `/v1/products` or from a price's `product_data`.
    pub(super) fn read(ids: &mut Ids, params: &mut Params, now_s: i64) -> Result<Self, ApiError> {
        let id = params.text("id", TEXT)?;
        let name = params.required_text("name", TEXT)?;
        let mut product = Self::new(id.unwrap_or_else(|| ids.make("prod")), name, now_s);
        product.change(params)?;
        Ok(product)
    }

    fn change(&mut self, params: &mut Params) -> Result<(), ApiError> {
        params.unsupported(NOT_YET)?;
        self.active = params.boolean("active")?.unwrap_or(self.active);
        self.name = params.text("name", TEXT)?.unwrap_or_else(|| self.name.clone());
        self.shippable = params.boolean("shippable")?.or(self.shippable);
        params.clearable_text("description", 40_000)?.apply(&mut self.description);
        params.clearable_text("statement_descriptor", 22)?.apply(&mut self.statement_descriptor);
        params.clearable_text("tax_code", TEXT)?.apply(&mut self.tax_code);
        params.clearable_text("unit_label", 12)?.apply(&mut self.unit_label);
        params.clearable_text("url", TEXT)?.apply(&mut self.url);
        if let Some(images) = params.texts("images", TEXT)? {
            self.images = images;
        }
        if let Some(features) = params.objects("marketing_features")? {
            self.marketing_features = features.into_iter().map(feature).collect::<Result<_, _>>()?;
        }
        merge_metadata(&mut self.metadata, params.metadata()?)
    }

    pub(super) fn shown(&self, store: &Store, expand: &Expand) -> Value {
        let mut shown = json!(self);
        let default = self.default_price.as_ref().and_then(|id| store.prices.get(id));
        if let Some(price) = default.filter(|_| expand.has("default_price")) {
            shown["default_price"] = price.shown(store, &Expand::default());
        }
        shown
    }
}

/// `POST /v1/products`
pub(super) fn create(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let expand = Expand::of_object(&mut call.params, EXPANDABLE)?;
    let now_s = call.now_s();
    let product = Product::read(&mut store.ids, &mut call.params, now_s)?;
    call.finish()?;
    let shown = product.shown(store, &expand);
    put(store, product)?;
    Ok(shown)
}

/// Puts a new product on the shelf, unless its id was used before.
pub(super) fn put(store: &mut Store, product: Product) -> Result<(), ApiError> {
    if store.products.knows(&product.id) {
        let error = ApiError::invalid("Product already exists.").code("resource_already_exists");
        return Err(error.param("id").executed());
    }
    store.products.put(product.id.clone(), product)
}

/// `GET /v1/products/{id}`
pub(super) fn retrieve(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let expand = Expand::of_object(&mut call.params, EXPANDABLE)?;
    call.finish()?;
    Ok(store.products.need(id, "id")?.shown(store, &expand))
}

/// `POST /v1/products/{id}`
pub(super) fn update(store: &mut Store, mut call: Call, id: &str) -> Result<Value, ApiError> {
    let expand = Expand::of_object(&mut call.params, EXPANDABLE)?;
    let mut changed = store.products.need(id, "id")?.clone();
    changed.change(&mut call.params)?;
    if let Some(price) = call.params.text("default_price", TEXT)? {
        price_of(store, id, &price)?;
        changed.default_price = Some(price);
    }
    changed.updated = call.now_s();
    call.finish()?;
    let shown = changed.shown(store, &expand);
    *store.products.need_mut(id, "id")? = changed;
    Ok(shown)
}

/// `DELETE /v1/products/{id}`: only a product without prices.
pub(super) fn delete(store: &mut Store, call: Call, id: &str) -> Result<Value, ApiError> {
    call.finish()?;
    store.products.need(id, "id")?;
    if store.prices.iter().any(|price| price.product == id) {
        let message = "This product cannot be deleted because it has one or more user-created prices.";
        return Err(ApiError::invalid(message).executed());
    }
    store.products.take(id, "id")?;
    Ok(json!({ "id": id, "object": "product", "deleted": true }))
}

/// `GET /v1/products`
pub(super) fn list_all(store: &mut Store, mut call: Call) -> Result<Value, ApiError> {
    let params = &mut call.params;
    let expand = Expand::of_list(params, EXPANDABLE)?;
    let (cursor, created) = (Cursor::take(params)?, Created::take(params)?);
    let (active, shippable) = (params.boolean("active")?, params.boolean("shippable")?);
    let (ids, url) = (params.texts("ids", TEXT)?, params.text("url", TEXT)?);
    call.finish()?;
    let keep = |p: &Product| {
        created.holds(p.created)
            && active.is_none_or(|active| p.active == active)
            && shippable.is_none_or(|shippable| p.shippable == Some(shippable))
            && ids.as_ref().is_none_or(|ids| ids.contains(&p.id))
            && (url.is_none() || p.url == url)
    };
    let (page, more) = store.products.page(&cursor, keep)?;
    Ok(list("/v1/products", page.into_iter().map(|p| p.shown(store, &expand)), more))
}

fn feature(mut params: Params) -> Result<Feature, ApiError> {
    let name = params.required_text("name", TEXT)?;
    params.finish().map(|()| Feature { name })
}

/// A product's default price must be one of its own.
fn price_of<'a>(store: &'a Store, product: &str, price: &str) -> Result<&'a Price, ApiError> {
    let found = store.prices.refer(price, "default_price")?;
    if found.product == product {
        return Ok(found);
    }
    let message = format!("The price `{price}` does not belong to the product `{product}`.");
    Err(ApiError::invalid(message).param("default_price").executed())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::desk::Desk;

    #[test]
    fn an_id_may_be_chosen_once() {
        let mut desk = Desk::new();
        assert_eq!(desk.make("/v1/products", "id=tollgate_pro&name=Pro"), "tollgate_pro");
        let (status, refused) = desk.post("/v1/products", "id=tollgate_pro&name=Pro");
        assert_eq!((status, &refused["error"]["code"]), (400, &json!("resource_already_exists")));
    }

    #[test]
    fn a_product_with_prices_stays() {
        let mut desk = Desk::new();
        let (bare, priced) = (desk.make("/v1/products", "name=Bare"), desk.make("/v1/products", "name=Priced"));
        let price = desk.make("/v1/prices", &format!("currency=usd&unit_amount=1&product={priced}"));
        assert_eq!(desk.delete(&format!("/v1/products/{priced}")).0, 400);
        assert_eq!(desk.delete(&format!("/v1/products/{bare}")).1["deleted"], true);
        assert_eq!(desk.get(&format!("/v1/products/{bare}")).0, 404);
        let (_, shown) = desk.post(&format!("/v1/products/{priced}"), &format!("default_price={price}&active=false"));
        assert_eq!((&shown["default_price"], &shown["active"]), (&json!(price), &json!(false)));
        assert_eq!(desk.get("/v1/products?active=true").1["data"], json!([]));
    }
}
