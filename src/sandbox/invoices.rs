//! An invoice: its state and how it is shown.

use serde_json::{Value, json};

use super::agenda::Scope;
use super::cycle::Period;
use super::invoice_lines::{Arrears, Line, apply_discounts, arrears_lines};
use super::params::Metadata;
use super::store::Store;
use super::subscriptions::Collection;

/// A draft waits this long, for late usage.
pub(super) const DRAFT_S: i64 = 3_600;

/// Stripe's five states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Draft,
    Open,
    Paid,
    Void,
    Uncollectible,
}

impl Status {
    pub(super) const TABLE: &[(&str, Self)] = &[
        ("draft", Self::Draft),
        ("open", Self::Open),
        ("paid", Self::Paid),
        ("void", Self::Void),
        ("uncollectible", Self::Uncollectible),
    ];

    pub(super) fn word(self) -> &'static str {
        Self::TABLE.iter().find(|(_, status)| *status == self).map_or("", |(word, _)| word)
    }
}

/// Why there is an invoice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    Create,
    Cycle,
    Update,
    Manual,
    Upcoming,
}

impl Reason {
    fn word(self) -> &'static str {
        match self {
            Self::Create => "subscription_create",
            Self::Cycle => "subscription_cycle",
            Self::Update => "subscription_update",
            Self::Manual => "manual",
            Self::Upcoming => "upcoming",
        }
    }
}

/// An attempt, or the chance of one, to pay.
#[derive(Clone, Debug)]
pub(super) struct Payment {
    id: String,
    intent: String,
    created: i64,
}

/// An invoice.
#[derive(Clone, Debug)]
pub(super) struct Invoice {
    pub(super) id: String,
    pub(super) customer: String,
    pub(super) subscription: Option<String>,
    pub(super) status: Status,
    pub(super) reason: Reason,
    pub(super) collection: Collection,
    pub(super) currency: String,
    pub(super) created: i64,
    pub(super) period: Period,
    /// Lines that stay as they are.
    pub(super) fixed: Vec<Line>,
    /// Usage whose lines follow late events until the invoice is finalized.
    pub(super) arrears: Vec<Arrears>,
    pub(super) lines: Vec<Line>,
    pub(super) discounts: Vec<String>,
    pub(super) number: Option<String>,
    pub(super) auto_advance: bool,
    pub(super) finalizes_at: Option<i64>,
    pub(super) next_attempt: Option<i64>,
    pub(super) attempts: i64,
    pub(super) starting_balance: i64,
    pub(super) ending_balance: Option<i64>,
    pub(super) amount_due: i64,
    pub(super) amount_paid: i64,
    pub(super) due_date: Option<i64>,
    pub(super) default_payment_method: Option<String>,
    pub(super) description: Option<String>,
    pub(super) footer: Option<String>,
    pub(super) metadata: Metadata,
    pub(super) finalized_at: Option<i64>,
    pub(super) paid_at: Option<i64>,
    pub(super) voided_at: Option<i64>,
    pub(super) uncollectible_at: Option<i64>,
    pub(super) payment: Option<Payment>,
    pub(super) test_clock: Option<String>,
}

impl Invoice {
    /// An empty draft.
    pub(super) fn draft(id: String, customer: &str, currency: &str, reason: Reason, created: i64) -> Self {
        Self {
            id,
            customer: customer.to_owned(),
            subscription: None,
            status: Status::Draft,
            reason,
            collection: Collection::Automatic,
            currency: currency.to_owned(),
            created,
            period: Period { start: created, end: created },
            fixed: Vec::new(),
            arrears: Vec::new(),
            lines: Vec::new(),
            discounts: Vec::new(),
            number: None,
            auto_advance: true,
            finalizes_at: None,
            next_attempt: None,
            attempts: 0,
            starting_balance: 0,
            ending_balance: None,
            amount_due: 0,
            amount_paid: 0,
            due_date: None,
            default_payment_method: None,
            description: None,
            footer: None,
            metadata: Metadata::new(),
            finalized_at: None,
            paid_at: None,
            voided_at: None,
            uncollectible_at: None,
            payment: None,
            test_clock: None,
        }
    }

    pub(super) fn scope(&self) -> Scope {
        self.test_clock.clone().map_or(Scope::Sandbox, Scope::Clock)
    }

    /// Lines before discounts, minor units.
    pub(super) fn subtotal(&self) -> i64 {
        self.lines.iter().map(|line| line.amount).sum()
    }

    /// Lines after discounts.
    pub(super) fn total(&self) -> i64 {
        self.lines.iter().map(Line::net).sum()
    }

    /// What is still to be paid.
    pub(super) fn remaining(&self) -> i64 {
        self.amount_due - self.amount_paid
    }

    /// When it is to be looked at again.
    pub(super) fn next_due(&self) -> Option<i64> {
        match self.status {
            Status::Draft if self.auto_advance => self.finalizes_at,
            Status::Open => self.next_attempt,
            Status::Draft | Status::Paid | Status::Void | Status::Uncollectible => None,
        }
    }

    /// Makes the lines anew from what is known now, and what they add up to.
    pub(super) fn refresh(&mut self, store: &Store, ids: &mut dyn FnMut() -> String) {
        let subscription = self.subscription.as_ref().and_then(|id| store.subscriptions.get(id));
        let mut lines = self.fixed.clone();
        for arrears in &self.arrears {
            lines.extend(subscription.iter().flat_map(|subscription| arrears_lines(store, subscription, arrears)));
        }
        apply_discounts(store, &mut lines, &self.discounts);
        for (n, line) in lines.iter_mut().enumerate() {
            // A line keeps its id while the draft follows the usage.
            line.id = self.lines.get(n).map_or_else(&mut *ids, |old| old.id.clone());
        }
        self.lines = lines;
        self.amount_due = (self.total() + self.starting_balance).max(0);
    }

    pub(super) fn begin_payment(&mut self, id: String, intent: String, created: i64) {
        self.payment = Some(Payment { id, intent, created });
    }

    /// `invoice.payments`, which is shown when expanded.
    pub(super) fn payments(&self) -> Value {
        let each = |payment: &Payment| {
            let status = match self.status {
                Status::Paid => "paid",
                Status::Void => "canceled",
                Status::Draft | Status::Open | Status::Uncollectible => "open",
            };
            json!({
                "id": payment.id,
                "object": "invoice_payment",
                "amount_paid": self.paid_at.map(|_| self.amount_paid),
                "amount_requested": self.amount_due,
                "created": payment.created,
                "currency": self.currency,
                "invoice": self.id,
                "is_default": true,
                "livemode": false,
                "payment": { "payment_intent": payment.intent, "type": "payment_intent" },
                "status": status,
                "status_transitions": { "canceled_at": self.voided_at, "paid_at": self.paid_at },
            })
        };
        let data: Vec<Value> = self.payment.iter().map(each).collect();
        json!({ "object": "list", "data": data, "has_more": false, "url": "/v1/invoice_payments" })
    }

    pub(super) fn shown(&self, store: &Store) -> Value {
        let customer = store.customers.get(&self.customer);
        let mut shown = json!({
            "id": self.id,
            "object": "invoice",
            "account_country": "US",
            "account_name": "Sandbox",
            "account_tax_ids": null,
            "amount_due": self.amount_due,
            "amount_overpaid": 0,
            "amount_paid": self.amount_paid,
            "amount_paid_off_stripe": 0,
            "amount_remaining": self.remaining(),
            "amount_shipping": 0,
            "application": null,
            "attempt_count": self.attempts,
            "attempted": self.attempts > 0,
            "auto_advance": self.auto_advance,
            "automatic_tax": { "disabled_reason": null, "enabled": false, "liability": null, "provider": null,
                               "status": null },
            "automatically_finalizes_at": self.finalizes_at.filter(|_| self.status == Status::Draft),
            "billing_reason": self.reason.word(),
            "collection_method": self.collection.word(),
            "created": self.created,
            "currency": self.currency,
            "custom_fields": null,
            "customer": self.customer,
            "customer_address": null,
            "customer_email": customer.and_then(|customer| customer.email.clone()),
            "customer_name": customer.and_then(|customer| customer.name.clone()),
            "customer_phone": null,
            "customer_shipping": null,
            "customer_tax_exempt": "none",
            "customer_tax_ids": [],
            "default_payment_method": self.default_payment_method,
            "default_source": null,
            "default_tax_rates": [],
            "description": self.description,
            "discounts": self.discounts,
            "due_date": self.due_date,
            "effective_at": self.finalized_at,
            "ending_balance": self.ending_balance,
            "footer": self.footer,
            "from_invoice": null,
        });
        for part in [self.middle(store), self.totals()] {
            if let (Value::Object(shown), Value::Object(part)) = (&mut shown, part) {
                shown.extend(part);
            }
        }
        shown
    }

    fn middle(&self, store: &Store) -> Value {
        let url = format!("/v1/invoices/{}/lines", self.id);
        let lines: Vec<Value> =
            self.lines.iter().map(|line| line.shown(store, Some(&self.id), &self.currency)).collect();
        let parent = self.subscription.as_ref().map(|id| {
            let metadata = store.subscriptions.get(id).map(|subscription| &subscription.metadata);
            json!({ "quote_details": null, "subscription_details": { "metadata": metadata, "subscription": id },
                    "type": "subscription_details" })
        });
        let hosted = self.finalized_at.map(|_| format!("{}/i/{}", store.base_url, self.id));
        let mut shown = json!({
            "hosted_invoice_url": hosted,
            "invoice_pdf": hosted.as_ref().map(|url| format!("{url}/pdf")),
            "issuer": { "type": "self" },
            "last_finalization_error": null,
            "latest_revision": null,
            "lines": { "object": "list", "data": lines, "has_more": false, "total_count": lines.len(), "url": url },
            "livemode": false,
            "metadata": self.metadata,
            "next_payment_attempt": self.next_attempt.filter(|_| self.status == Status::Open).or(self.finalizes_at.filter(|_| self.status == Status::Draft)),
            "number": self.number,
            "on_behalf_of": null,
            "parent": parent,
            "payment_settings": { "default_mandate": null, "payment_method_options": null,
                                  "payment_method_types": null },
        });
        if let Some(payment) = &self.payment {
            shown["confirmation_secret"] =
                json!({ "client_secret": format!("{}_secret_sandbox", payment.intent), "type": "payment_intent" });
        }
        shown
    }

    fn totals(&self) -> Value {
        let mut taken: Vec<(String, i64)> = Vec::new();
        for (id, amount) in self.lines.iter().flat_map(|line| &line.taken) {
            match taken.iter_mut().find(|(known, _)| known == id) {
                Some((_, sum)) => *sum += amount,
                None => taken.push((id.clone(), *amount)),
            }
        }
        let taken: Vec<Value> = taken.iter().map(|(id, amount)| json!({ "amount": amount, "discount": id })).collect();
        json!({
            "period_end": self.period.end,
            "period_start": self.period.start,
            "post_payment_credit_notes_amount": 0,
            "pre_payment_credit_notes_amount": 0,
            "receipt_number": null,
            "rendering": null,
            "shipping_cost": null,
            "shipping_details": null,
            "starting_balance": self.starting_balance,
            "statement_descriptor": null,
            "status": self.status.word(),
            "status_transitions": { "finalized_at": self.finalized_at,
                                    "marked_uncollectible_at": self.uncollectible_at,
                                    "paid_at": self.paid_at, "voided_at": self.voided_at },
            "subtotal": self.subtotal(),
            "subtotal_excluding_tax": self.subtotal(),
            "test_clock": self.test_clock,
            "total": self.total(),
            "total_discount_amounts": taken,
            "total_excluding_tax": self.total(),
            "total_pretax_credit_amounts": [],
            "total_taxes": [],
            "webhooks_delivered_at": null,
        })
    }
}

impl Store {
    /// Enters when the invoice is due next.
    pub(super) fn schedule_invoice(&mut self, id: &str) {
        if let Some(invoice) = self.invoices.get(id) {
            let (scope, at) = (invoice.scope(), invoice.next_due());
            if invoice.status == Status::Draft {
                self.drafts.insert(id.to_owned());
            } else {
                self.drafts.remove(id);
            }
            self.agenda.set(&scope, super::agenda::Job::Invoice(id.to_owned()), at);
        }
    }

    /// Makes a draft's lines follow the usage; anything else stays as it is.
    pub(super) fn refresh_draft(&mut self, id: &str) {
        let Some(mut invoice) = self.invoices.get(id).filter(|invoice| invoice.status == Status::Draft).cloned() else {
            return;
        };
        let mut ids = self.ids.clone();
        invoice.refresh(self, &mut || ids.make("il"));
        self.ids = ids;
        if let Ok(place) = self.invoices.need_mut(id, "invoice") {
            *place = invoice;
        }
    }

    /// All drafts follow the usage.
    pub(super) fn refresh_drafts(&mut self) {
        for id in self.drafts.clone() {
            self.refresh_draft(&id);
        }
    }
}
