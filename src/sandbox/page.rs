//! The hosted pages: plain HTML forms, which a person or a headless browser clicks through.
//!
//! | path | page |
//! |---|---|
//! | `/c/pay/{session}` | Checkout |
//! | `/c/authenticate/{setup intent}` | the bank asks its cardholder |
//! | `/i/{invoice}` | a hosted invoice |
//! | `/p/session/{session}` | the customer portal |

use std::fmt::{self, Write as _};

use http::{Method, StatusCode};

use super::cards::{CARDS, Card};
use super::errors::ApiError;
use super::form::{self, Form, Node};
use super::store::Store;
use super::{checkout_page, invoice_page, portal_page, setup_intents};

/// What a browser gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Page {
    Html(StatusCode, String),
    /// 303
    Redirect(String),
}

/// One visit.
pub(super) struct Visit<'a> {
    pub(super) method: &'a Method,
    /// The object's id.
    pub(super) id: &'a str,
    pub(super) fields: Fields,
}

impl Visit<'_> {
    /// Whether a form was sent.
    pub(super) fn is_post(&self) -> bool {
        self.method == Method::POST
    }
}

/// A form's flat fields.
pub(super) struct Fields(Form);

impl Fields {
    /// A field that is not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        match self.0.get(name) {
            Some(Node::Text(text)) if !text.trim().is_empty() => Some(text.trim()),
            Some(Node::Text(_) | Node::List(_) | Node::Map(_)) | None => None,
        }
    }

    /// The card that was entered by number, or else chosen.
    pub(super) fn card(&self) -> Result<&'static Card, ApiError> {
        let entered = self.get("number").map(Card::by_number);
        let chosen = || self.get("card").map(|name| CARDS.iter().find(|card| card.name == name));
        let wrong = || ApiError::card("Your card number is incorrect.").code("incorrect_number");
        entered.or_else(chosen).flatten().ok_or_else(wrong)
    }
}

/// Answers a visit; `None` if there is no such page.
pub(super) fn answer(store: &mut Store, method: &Method, path: &str, body: &str) -> Option<Page> {
    let segments: Vec<&str> = path.split('/').skip(1).collect();
    let Ok(fields) = form::parse(body) else {
        return Some(problem(StatusCode::BAD_REQUEST, "This form cannot be read."));
    };
    let visit = |id| Visit { method, id, fields: Fields(fields) };
    let page = match segments.as_slice() {
        ["c", "pay", id] => checkout_page::answer(store, &visit(id)),
        ["c", "authenticate", id] => authenticate(store, &visit(id)),
        ["i", id] => invoice_page::answer(store, &visit(id)),
        ["p", "session", id] => portal_page::answer(store, &visit(id)),
        _ => return None,
    };
    Some(page.unwrap_or_else(|error| problem(error.status, &error.message)))
}

/// Whether a path is one of these pages'.
pub(super) fn is_page(path: &str) -> bool {
    ["/c/", "/i/", "/p/"].iter().any(|beginning| path.starts_with(beginning))
}

fn authenticate(store: &mut Store, visit: &Visit<'_>) -> Result<Page, ApiError> {
    let intent = store.setup_intents.need(visit.id, "intent")?;
    let back = intent.return_url.clone();
    if !visit.is_post() {
        return Ok(html(
            StatusCode::OK,
            "Your bank asks",
            &format!("<p>Save this card for later payments?</p>{AGREE}"),
        ));
    }
    setup_intents::authenticate(store, visit.id, visit.fields.get("agree") == Some("yes"))?;
    Ok(back.map_or_else(|| html(StatusCode::OK, "Thank you", "<p>You may close this page.</p>"), Page::Redirect))
}

/// The bank's two buttons.
pub(super) const AGREE: &str = "<form method=post><button id=agree name=agree value=yes>Authenticate</button> \
     <button id=refuse name=agree value=no>Refuse</button></form>";

/// A page that says what is wrong.
pub(super) fn problem(status: StatusCode, message: &str) -> Page {
    html(status, "Something is wrong", &format!("<p id=error>{}</p>", escape(message)))
}

/// A whole page; `body` is HTML, `title` is text.
pub(super) fn html(status: StatusCode, title: &str, body: &str) -> Page {
    let title = escape(title);
    let page = format!(
        "<!doctype html><html lang=en><head><meta charset=utf-8><meta name=viewport content=\"width=device-width\">\
         <title>{title}</title><style>body{{font:16px/1.5 system-ui;max-width:34rem;margin:3rem auto;padding:0 1rem}}\
         label{{display:block;margin:.6rem 0}}table{{width:100%}}td:last-child{{text-align:right}}#error{{color:#b00}}\
         button{{padding:.5rem 1rem}}</style></head><body><p><small>Stripe sandbox · test cards only</small></p>\
         <h1>{title}</h1>{body}</body></html>"
    );
    Page::Html(status, page)
}

/// The choice of a card.
pub(super) fn card_fields() -> String {
    let option = |card: &Card| format!("<option value=\"{0}\">{0} · {1}</option>", card.name, card.number);
    let options: String = CARDS.iter().map(option).collect();
    format!(
        "<label>Card <select id=card name=card>{options}</select></label>\
         <label>or its number <input id=number name=number inputmode=numeric autocomplete=off></label>"
    )
}

/// An error above a form.
pub(super) fn complaint(error: Option<&ApiError>) -> String {
    error.map_or_else(String::new, |error| format!("<p id=error>{}</p>", escape(&error.message)))
}

/// Appends to a page.
pub(super) fn add(page: &mut String, text: fmt::Arguments<'_>) {
    page.write_fmt(text).expect("a String takes every text");
}

/// Text inside of HTML, also inside of a quoted attribute.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
    }
    escaped
}

/// `29.00 USD`
pub(super) fn money(minor: i64, currency: &str) -> String {
    let (sign, minor) = if minor < 0 { ("-", minor.unsigned_abs()) } else { ("", minor.unsigned_abs()) };
    format!("{sign}{}.{:02} {}", minor / 100, minor % 100, currency.to_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_becomes_markup() {
        assert_eq!(escape("<a href='x'>&\"</a>"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;&lt;/a&gt;");
        assert_eq!((money(2_905, "usd"), money(-5, "eur")), ("29.05 USD".into(), "-0.05 EUR".into()));
    }
}
