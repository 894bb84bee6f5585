//! `/p/session/{session}`: a customer cancels, switches, pays with another card.

use http::StatusCode;
use serde_json::Value;

use super::changes::{Edit, Proration};
use super::errors::ApiError;
use super::page::{Page, Visit, add, card_fields, complaint, escape, html, money};
use super::params::Change;
use super::portal::PortalSession;
use super::store::{Store, day};
use super::subscription_create::Behavior;
use super::subscription_update::{Money, change};
use super::subscriptions::Subscription;
use super::{payment_methods, subscription_end};

/// Answers a visit.
pub(super) fn answer(store: &mut Store, visit: &Visit<'_>) -> Result<Page, ApiError> {
    let session = store.portal_sessions.need(visit.id, "session")?.clone();
    let features = store.portal_configurations.need(&session.configuration, "configuration")?.features.clone();
    if !visit.is_post() {
        return Ok(show(store, &session, &features, None));
    }
    let done = act(store, &session, &features, visit);
    Ok(show(store, &session, &features, done.err().as_ref()))
}

fn allowed(features: &Value, feature: &str) -> bool {
    features[feature]["enabled"] == true
}

fn act(store: &mut Store, session: &PortalSession, features: &Value, visit: &Visit<'_>) -> Result<(), ApiError> {
    let refuse = || ApiError::invalid("This is not allowed here.");
    match visit.fields.get("action") {
        Some("card") if allowed(features, "payment_method_update") => save_card(store, session, visit),
        Some("cancel") if allowed(features, "subscription_cancel") => {
            let known = own(store, session, visit)?;
            if features["subscription_cancel"]["mode"] == "immediately" {
                subscription_end::end(store, &known.id, "cancellation_requested");
                return Ok(());
            }
            let end = known.items.iter().map(|item| item.period.end).max();
            set_end(store, &known, end.map_or(Change::Keep, Change::Set))
        }
        Some("renew") if allowed(features, "subscription_cancel") => {
            let known = own(store, session, visit)?;
            set_end(store, &known, Change::Clear)
        }
        Some("switch") if allowed(features, "subscription_update") => switch(store, session, features, visit),
        Some(_) | None => Err(refuse()),
    }
}

/// The subscription a form names, if it is this customer's.
fn own(store: &Store, session: &PortalSession, visit: &Visit<'_>) -> Result<Subscription, ApiError> {
    let id = visit.fields.get("subscription").unwrap_or_default();
    let found =
        store.subscriptions.get(id).filter(|known| known.customer == session.customer && !known.status.is_over());
    found.cloned().ok_or_else(|| ApiError::no_such("subscription", id, "subscription"))
}

fn save_card(store: &mut Store, session: &PortalSession, visit: &Visit<'_>) -> Result<(), ApiError> {
    let method = payment_methods::make(store, visit.fields.card()?)?;
    payment_methods::attach_to(store, &method, &session.customer)?;
    let before = store.shown(&session.customer);
    store.customers.need_mut(&session.customer, "customer")?.set_default_payment_method(method.clone());
    store.announce_change("customer.updated", &session.customer, before.as_ref());
    let mine = |known: &Subscription| known.customer == session.customer && !known.status.is_over();
    let mine: Vec<String> =
        store.subscriptions.iter().filter(|known| mine(known)).map(|known| known.id.clone()).collect();
    for id in mine {
        let before = store.shown(&id);
        store.subscriptions.need_mut(&id, "subscription")?.default_payment_method = Some(method.clone());
        store.announce_change("customer.subscription.updated", &id, before.as_ref());
    }
    Ok(())
}

fn set_end(store: &mut Store, known: &Subscription, cancel_at: Change<i64>) -> Result<(), ApiError> {
    let now = store.time_of(Some(&known.customer));
    let mut money = Money::of_edits(Vec::new(), Proration::Nothing, now);
    money.cancel_at = cancel_at;
    change(store, known, known, money, Behavior::Allow, None)
}

/// Another price of the offered ones, in place of the first item that is one of them or not metered.
fn switch(store: &mut Store, session: &PortalSession, features: &Value, visit: &Visit<'_>) -> Result<(), ApiError> {
    let known = own(store, session, visit)?;
    let wanted = visit.fields.get("price").unwrap_or_default().to_owned();
    let offered = offered(features);
    if !offered.contains(&wanted) {
        return Err(ApiError::invalid("This plan is not offered."));
    }
    let metered = store.prices.get(&wanted).is_some_and(super::prices::Price::is_metered);
    let like = |price: &str| store.prices.get(price).is_some_and(|price| price.is_metered() == metered);
    let item = known.items.iter().find(|item| offered.contains(&item.price) && like(&item.price));
    let item = item.or_else(|| known.items.iter().find(|item| like(&item.price)));
    let item = item.ok_or_else(|| ApiError::invalid("This subscription has nothing to switch."))?;
    let edit = Edit {
        name: "items[0]".into(),
        id: Some(item.id.clone()),
        price: Some(wanted),
        quantity: None,
        deleted: false,
        metadata: Change::Keep,
    };
    let how = match features["subscription_update"]["proration_behavior"].as_str() {
        Some("always_invoice") => Proration::InvoiceNow,
        Some("create_prorations") => Proration::Create,
        Some(_) | None => Proration::Nothing,
    };
    let now = store.time_of(Some(&known.customer));
    change(store, &known, &known, Money::of_edits(vec![edit], how, now), Behavior::Refuse, None)
}

fn offered(features: &Value) -> Vec<String> {
    let products = features["subscription_update"]["products"].as_array();
    let prices = products.into_iter().flatten().filter_map(|product| product["prices"].as_array()).flatten();
    prices.filter_map(Value::as_str).map(str::to_owned).collect()
}

fn show(store: &Store, session: &PortalSession, features: &Value, error: Option<&ApiError>) -> Page {
    let mut body = complaint(error);
    let mine = store.subscriptions.iter().filter(|known| known.customer == session.customer && !known.status.is_over());
    for known in mine {
        body.push_str(&subscription(store, known, features));
    }
    if allowed(features, "payment_method_update") {
        add(
            &mut body,
            format_args!(
                "<h2>Card</h2><form method=post>{}<button id=update_card name=action value=card>Save card</button></form>",
                card_fields()
            ),
        );
    }
    if allowed(features, "invoice_history") {
        body.push_str(&invoices(store, &session.customer));
    }
    if let Some(url) = &session.return_url {
        add(&mut body, format_args!("<p><a id=return href=\"{}\">Back</a></p>", escape(url)));
    }
    html(error.map_or(StatusCode::OK, |error| error.status), "Your billing", &body)
}

fn subscription(store: &Store, known: &Subscription, features: &Value) -> String {
    let mut text = format!("<h2>Subscription</h2><p class=status>{}</p><ul>", known.status.word());
    for price in known.items.iter().filter_map(|item| store.prices.get(&item.price)) {
        add(&mut text, format_args!("<li>{}</li>", escape(&store.product_name(price))));
    }
    add(
        &mut text,
        format_args!("</ul><form method=post><input type=hidden name=subscription value=\"{}\">", escape(&known.id)),
    );
    if allowed(features, "subscription_update") {
        let option = |price: &super::prices::Price| {
            let amount = money(price.tariff().amount(1), &price.currency);
            format!(
                "<option value=\"{}\">{} · {amount} / {}</option>",
                escape(&price.id),
                escape(&store.product_name(price)),
                price.interval().0.word()
            )
        };
        let options: String = offered(features).iter().filter_map(|id| store.prices.get(id)).map(option).collect();
        add(
            &mut text,
            format_args!(
                "<select id=price name=price>{options}</select><button id=switch name=action value=switch>Switch plan</button> "
            ),
        );
    }
    if allowed(features, "subscription_cancel") {
        match known.cancel_at {
            Some(at) => add(
                &mut text,
                format_args!("Ends on {}. <button id=renew name=action value=renew>Renew</button>", day(at)),
            ),
            None => text.push_str("<button id=cancel name=action value=cancel>Cancel plan</button>"),
        }
    }
    text.push_str("</form>");
    text
}

fn invoices(store: &Store, customer: &str) -> String {
    let mine =
        store.invoices.iter().rev().filter(|invoice| invoice.customer == customer && invoice.finalized_at.is_some());
    let row = |invoice: &super::invoices::Invoice| {
        let url = format!("{}/i/{}", store.base_url, invoice.id);
        let name = invoice.number.as_deref().unwrap_or_default();
        let amount = money(invoice.amount_due, &invoice.currency);
        format!("<tr><td><a href=\"{url}\">{}</a> {}</td><td>{amount}</td></tr>", escape(name), invoice.status.word())
    };
    format!("<h2>Invoices</h2><table>{}</table>", mine.take(20).map(row).collect::<String>())
}
