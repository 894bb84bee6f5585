//! `/v1/…/search`: Stripe's search language, as far as finding what somebody made needs it.
//!
//! Clauses `field:'text'` and `metadata['key']:'text'`, joined by `AND`. Stripe's index is up to a minute behind; this
//! one never is.

use serde_json::{Value, json};

use super::errors::ApiError;
use super::params::TEXT;
use super::store::{Call, Store};

const PAGE: i64 = 10;
const MAX_PAGE: i64 = 100;

/// One condition: a field, perhaps a key of it, and the text it must have.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Clause {
    field: String,
    key: Option<String>,
    value: String,
}

impl Clause {
    /// Reads `field:'text'` at the beginning of `text`; what follows is returned with it.
    fn read(text: &str) -> Option<(Self, &str)> {
        let end = text.find(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != '.')?;
        let (field, rest) = text.split_at(end);
        let (key, rest) = match rest.strip_prefix('[') {
            None => (None, rest),
            Some(inner) => {
                let (key, rest) = quoted(inner)?;
                (Some(key), rest.strip_prefix(']')?)
            }
        };
        let (value, rest) = quoted(rest.strip_prefix(':')?)?;
        (!field.is_empty()).then(|| (Self { field: field.to_owned(), key, value }, rest))
    }

    fn holds(&self, object: &Value) -> bool {
        let field = &object[&self.field];
        let found = self.key.as_ref().map_or(field, |key| &field[key]);
        match found {
            Value::String(text) => *text == self.value,
            Value::Bool(flag) => flag.to_string() == self.value,
            Value::Number(number) => number.to_string() == self.value,
            Value::Null | Value::Array(_) | Value::Object(_) => false,
        }
    }
}

/// A text in single or double quotes, and what follows it.
fn quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    let mut value = String::new();
    let mut chars = text.char_indices().skip(1);
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.push(chars.next()?.1),
            c if c == quote => return Some((value, &text[at + 1..])),
            c => value.push(c),
        }
    }
    None
}

fn parse(query: &str) -> Option<Vec<Clause>> {
    let mut clauses = Vec::new();
    let mut rest = query.trim();
    loop {
        let (clause, after) = Clause::read(rest)?;
        clauses.push(clause);
        let after = after.trim_start();
        if after.is_empty() {
            return Some(clauses);
        }
        rest = after.strip_prefix("AND ").or_else(|| after.strip_prefix("and "))?.trim_start();
    }
}

/// Every object of a kind, newest first.
fn all(store: &Store, kind: &str) -> Vec<Value> {
    let plain = |id: &str| store.shown(id);
    match kind {
        "customers" => store.customers.iter().rev().map(super::customers::Customer::shown).collect(),
        "products" => store.products.iter().rev().filter_map(|known| store.named("product", &known.id)).collect(),
        "prices" => store.prices.iter().rev().filter_map(|known| plain(&known.id)).collect(),
        "subscriptions" => store.subscriptions.iter().rev().filter_map(|known| plain(&known.id)).collect(),
        "invoices" => store.invoices.iter().rev().filter_map(|known| plain(&known.id)).collect(),
        _ => Vec::new(),
    }
}

/// `GET /v1/{kind}/search`
pub(super) fn search(store: &mut Store, mut call: Call, kind: &str) -> Result<Value, ApiError> {
    let query = call.params.required_text("query", TEXT)?;
    let limit = call.params.integer("limit")?.unwrap_or(PAGE);
    let page = call.params.integer("page")?.unwrap_or(0);
    call.finish()?;
    if !(1..=MAX_PAGE).contains(&limit) || page < 0 {
        return Err(ApiError::invalid(format!("Invalid limit: must be between 1 and {MAX_PAGE}")).param("limit"));
    }
    let clauses = parse(&query).ok_or_else(|| {
        let message = "We were unable to parse your search query, or the sandbox does not have all of it: it knows \
                       field:'text' and metadata['key']:'text', joined by AND.";
        ApiError::invalid(message).param("query")
    })?;
    let found: Vec<Value> =
        all(store, kind).into_iter().filter(|object| clauses.iter().all(|c| c.holds(object))).collect();
    let size = usize::try_from(limit).unwrap_or(usize::MAX);
    let from = usize::try_from(page).unwrap_or(usize::MAX).saturating_mul(size);
    let data: Vec<&Value> = found.iter().skip(from).take(size).collect();
    let more = found.len() > from.saturating_add(size);
    let next = more.then(|| (page + 1).to_string());
    Ok(json!({ "object": "search_result", "url": format!("/v1/{kind}/search"), "has_more": more, "data": data,
               "next_page": next }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::desk::Desk;

    #[test]
    fn objects_are_found_by_field_and_metadata() {
        let mut desk = Desk::new();
        let id = desk.make("/v1/customers", "email=a@x.test&metadata[tenant]=o'neil");
        desk.make("/v1/customers", "email=a@x.test&metadata[tenant]=other");
        let found = |desk: &mut Desk, query: &str| {
            let query = query.replace('\'', "%27").replace('"', "%22").replace(' ', "%20").replace('\\', "%5C");
            desk.get(&format!("/v1/customers/search?query={query}&limit=1")).1
        };
        let one = found(&mut desk, r"metadata['tenant']:'o\'neil' AND email:'a@x.test'");
        assert_eq!((&one["data"][0]["id"], &one["has_more"]), (&json!(id), &json!(false)));
        let two = found(&mut desk, "email:\"a@x.test\"");
        assert_eq!((&two["has_more"], &two["next_page"]), (&json!(true), &json!("1")));
        for wrong in ["email", "email:'a", "email~'a'", "email:'a' OR email:'b'", ""] {
            assert_eq!(found(&mut desk, wrong)["error"]["type"], "invalid_request_error", "{wrong}");
        }
    }
}
