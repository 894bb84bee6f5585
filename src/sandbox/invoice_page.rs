//! `/i/{invoice}`: a person pays an invoice that the card on file did not.

use http::StatusCode;

use super::collect;
use super::errors::ApiError;
use super::invoices::{Invoice, Status};
use super::page::{Page, Visit, add, card_fields, complaint, escape, html, money};
use super::payment_methods;
use super::store::Store;

/// Answers a visit.
pub(super) fn answer(store: &mut Store, visit: &Visit<'_>) -> Result<Page, ApiError> {
    let invoice = store.invoices.need(visit.id, "invoice")?.clone();
    let payable = matches!(invoice.status, Status::Open | Status::Uncollectible);
    if !visit.is_post() || !payable {
        return Ok(show(&invoice, None));
    }
    let paid = pay(store, &invoice, visit);
    let invoice = store.invoices.need(visit.id, "invoice")?;
    Ok(show(invoice, paid.err().as_ref()))
}

/// Charges the card that was entered; its holder is there to authenticate.
fn pay(store: &mut Store, invoice: &Invoice, visit: &Visit<'_>) -> Result<(), ApiError> {
    let method = payment_methods::make(store, visit.fields.card()?)?;
    payment_methods::attach_to(store, &method, &invoice.customer)?;
    payment_methods::authenticate(store, &method)?;
    collect::attempt(store, &invoice.id, Some(method))?.map_err(super::cards::Decline::error)
}

fn show(invoice: &Invoice, error: Option<&ApiError>) -> Page {
    let mut body = complaint(error);
    body.push_str("<table>");
    for line in &invoice.lines {
        add(
            &mut body,
            format_args!(
                "<tr><td>{}</td><td>{}</td></tr>",
                escape(&line.description),
                money(line.net(), &invoice.currency)
            ),
        );
    }
    add(
        &mut body,
        format_args!(
            "</table><p id=status>{}</p><p>Due: <b id=due>{}</b></p>",
            invoice.status.word(),
            money(invoice.remaining(), &invoice.currency)
        ),
    );
    if matches!(invoice.status, Status::Open | Status::Uncollectible) {
        add(&mut body, format_args!("<form method=post>{}<button id=pay>Pay</button></form>", card_fields()));
    }
    let status = error.map_or(StatusCode::OK, |error| error.status);
    html(status, &format!("Invoice {}", invoice.number.as_deref().unwrap_or("(draft)")), &body)
}
