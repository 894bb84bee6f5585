//! `/c/pay/{session}`: a person pays, or walks away.

use http::StatusCode;

use super::cards::{Card, Outcome};
use super::checkout::{Collect, Kind, Session, Status};
use super::discounts::Wanted;
use super::errors::ApiError;
use super::page::{AGREE, Page, Visit, add, card_fields, complaint, escape, html, money, problem};
use super::store::Store;
use super::subscription_create::{Behavior, begin};
use super::{customers, payment_methods, setup_intents};

/// Answers a visit.
pub(super) fn answer(store: &mut Store, visit: &Visit<'_>) -> Result<Page, ApiError> {
    let session = store.sessions.need(visit.id, "session")?.clone();
    match session.status {
        Status::Complete => return Ok(html(StatusCode::OK, "Done", "<p>You have paid already.</p>")),
        Status::Expired => return Ok(problem(StatusCode::GONE, "This page has expired.")),
        Status::Open => {}
    }
    if !visit.is_post() {
        return Ok(show(store, &session, None));
    }
    match complete(store, &session, visit) {
        Ok(page) => Ok(page),
        Err(error) => Ok(show(store, &session, Some(&error))),
    }
}

fn show(store: &Store, session: &Session, error: Option<&ApiError>) -> Page {
    let (before, due) = session.due(store, None);
    let currency = session
        .items
        .first()
        .and_then(|edit| store.prices.get(edit.price.as_ref()?))
        .map_or("usd", |price| &price.currency);
    let mut body = complaint(error);
    body.push_str("<table>");
    for edit in &session.items {
        let Some(price) = edit.price.as_ref().and_then(|id| store.prices.get(id)) else { continue };
        let (name, interval) = (escape(&store.product_name(price)), price.interval().0.word());
        let amount = if price.is_metered() {
            "by usage".to_owned()
        } else {
            money(price.tariff().amount(edit.quantity.unwrap_or(1)), currency)
        };
        add(&mut body, format_args!("<tr><td>{name}</td><td>{amount} / {interval}</td></tr>"));
    }
    if before != due {
        add(&mut body, format_args!("<tr><td>Discount</td><td>{}</td></tr>", money(due - before, currency)));
    }
    add(
        &mut body,
        format_args!(
            "<tr><td><b>Due today</b></td><td id=due><b>{}</b></td></tr></table><form method=post>",
            money(due, currency)
        ),
    );
    if session.customer.is_none() {
        let email = escape(session.customer_email.as_deref().unwrap_or_default());
        add(
            &mut body,
            format_args!("<label>E-mail <input id=email name=email type=email required value=\"{email}\"></label>"),
        );
    }
    if session.allow_promotion_codes {
        body.push_str("<label>Promotion code <input id=promotion_code name=promotion_code></label>");
    }
    if session.collect == Collect::Always || due > 0 {
        body.push_str(&card_fields());
    }
    body.push_str("<button id=pay>Subscribe</button></form>");
    if let Some(cancel) = &session.cancel_url {
        add(&mut body, format_args!("<p><a id=cancel href=\"{}\">Cancel</a></p>", escape(cancel)));
    }
    let status = error.map_or(StatusCode::OK, |error| error.status);
    html(status, if session.kind == Kind::Setup { "Save a card" } else { "Subscribe" }, &body)
}

fn complete(store: &mut Store, session: &Session, visit: &Visit<'_>) -> Result<Page, ApiError> {
    let code = promotion(store, session, visit)?;
    let (_, due) = session.due(store, code.as_ref());
    let card = if session.collect == Collect::Always || due > 0 { Some(visit.fields.card()?) } else { None };
    let email = visit.fields.get("email").or(session.customer_email.as_deref());
    if session.customer.is_none() && email.is_none_or(|email| !email.contains('@')) {
        return Err(ApiError::invalid("Your e-mail address is incomplete.").param("email"));
    }
    if let Some(card) = card {
        refuse(card, due)?;
        let asks = card.at_setup == Outcome::NeedsAction || (due > 0 && card.at_charge == Outcome::NeedsAction);
        match visit.fields.get("agree") {
            None if asks => return Ok(ask(visit)),
            Some("no") if asks => return Err(super::cards::AUTHENTICATION_REQUIRED.error()),
            Some(_) | None => {}
        }
    }
    let customer = match &session.customer {
        Some(customer) => customer.clone(),
        None => customers::make(store, email)?,
    };
    let method = card.map(|card| save(store, card, &customer)).transpose()?;
    finish(store, session, &customer, method, code)?;
    let success = session.success_url.clone().unwrap_or_default();
    Ok(Page::Redirect(success.replace("{CHECKOUT_SESSION_ID}", &session.id)))
}

/// A card that will not do is refused before anything is made.
fn refuse(card: &Card, due: i64) -> Result<(), ApiError> {
    match (card.at_setup, card.at_charge) {
        (Outcome::Declined(decline), _) => Err(decline.error()),
        (_, Outcome::Declined(decline)) if due > 0 => Err(decline.error()),
        (Outcome::Fine | Outcome::NeedsAction, _) => Ok(()),
    }
}

/// The bank asks; what was entered comes again with its answer.
fn ask(visit: &Visit<'_>) -> Page {
    let mut hidden = String::new();
    for name in ["email", "card", "number", "promotion_code"] {
        if let Some(value) = visit.fields.get(name) {
            add(&mut hidden, format_args!("<input type=hidden name={name} value=\"{}\">", escape(value)));
        }
    }
    let form = AGREE.replacen("<form method=post>", &format!("<form method=post>{hidden}"), 1);
    html(StatusCode::OK, "Your bank asks", &format!("<p>Do you authorize this payment?</p>{form}"))
}

fn save(store: &mut Store, card: &'static Card, customer: &str) -> Result<String, ApiError> {
    let method = payment_methods::make(store, card)?;
    payment_methods::attach_to(store, &method, customer)?;
    payment_methods::authenticate(store, &method)?;
    Ok(method)
}

fn promotion(store: &Store, session: &Session, visit: &Visit<'_>) -> Result<Option<Wanted>, ApiError> {
    let Some(typed) = visit.fields.get("promotion_code").filter(|_| session.allow_promotion_codes) else {
        return Ok(None);
    };
    let now = store.time_of(session.customer.as_deref());
    let customer = session.customer.as_deref();
    let found = store
        .promotion_codes
        .iter()
        .find(|code| code.code.eq_ignore_ascii_case(typed) && code.is_usable(store, customer, now));
    match found {
        Some(code) => Ok(Some(Wanted::PromotionCode(code.id.clone()))),
        None => Err(ApiError::invalid("This code is invalid.").code("promotion_code_invalid").param("promotion_code")),
    }
}

fn finish(
    store: &mut Store,
    session: &Session,
    customer: &str,
    method: Option<String>,
    code: Option<Wanted>,
) -> Result<(), ApiError> {
    let id = &session.id;
    store.sessions.need_mut(id, "session")?.customer = Some(customer.to_owned());
    match (session.kind, &session.setup_intent, &method) {
        (Kind::Setup, Some(intent), Some(method)) => setup_intents::complete(store, intent, customer, method)?,
        (Kind::Setup, _, _) => {}
        (Kind::Subscription, _, _) => subscribe(store, session, customer, method, code)?,
    }
    store.sessions.need_mut(id, "session")?.status = Status::Complete;
    store.announce_object("checkout.session.completed", id);
    Ok(())
}

fn subscribe(
    store: &mut Store,
    session: &Session,
    customer: &str,
    method: Option<String>,
    code: Option<Wanted>,
) -> Result<(), ApiError> {
    let mut draft = session.draft(store);
    customer.clone_into(&mut draft.customer);
    draft.method = method;
    draft.discounts = session.discounts.iter().cloned().chain(code).collect();
    let subscription = begin(store, &draft, Behavior::Refuse)?;
    let invoice = store.subscriptions.need(&subscription, "subscription")?.latest_invoice.clone();
    let paid = invoice.as_ref().and_then(|id| store.invoices.get(id)).is_some_and(|invoice| invoice.amount_paid > 0);
    let session = store.sessions.need_mut(&session.id, "session")?;
    (session.subscription, session.invoice, session.paid) = (Some(subscription), invoice, paid);
    Ok(())
}
