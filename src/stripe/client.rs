//! The operations that Tollgate asks of Stripe, typed; each asks until it has a definite answer or its time is up.

use std::collections::HashMap;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use stripe_billing::billing_meter::{
    CreateBillingMeter, CreateBillingMeterCustomerMapping, CreateBillingMeterCustomerMappingType,
    CreateBillingMeterDefaultAggregation, CreateBillingMeterDefaultAggregationFormula, CreateBillingMeterValueSettings,
    ListBillingMeter,
};
use stripe_billing::billing_meter_event::CreateBillingMeterEvent;
use stripe_billing::billing_meter_event_summary::ListIdBillingMeterEventSummary;
use stripe_billing::{BillingMeterId, BillingMeterStatus};
use stripe_client_core::{RequestBuilder, StripeRequest};
use stripe_core::customer::{CreateCustomer, RetrieveCustomer};

use super::attempt::Answer;
use super::retry::IdempotencyKey;
use super::transport::{CallError, Transport};
use super::wire::{Customer, List, Meter, MeterEvent, Summary};
use crate::pricing::MeterKind;

/// Items a page; Stripe's highest.
const PAGE: i64 = 100;

/// Pages read of one list before it counts as endless.
const MAX_PAGES: usize = 1000;

/// Key in a meter event's payload that names the customer; Stripe's default, and that of the meters we make.
const CUSTOMER_KEY: &str = "stripe_customer_id";

/// Key in a meter event's payload that holds the units; Stripe's default, and that of the meters we make.
const VALUE_KEY: &str = "value";

/// Stripe's operations. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Client {
    transport: Arc<Transport>,
}

/// A customer to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NewCustomer {
    /// Our tenant's id, kept in `metadata[tollgate_tenant]`.
    pub tenant: String,
    /// For people.
    pub name: Option<String>,
    /// For people and receipts.
    pub email: Option<String>,
}

/// A meter event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The meter's `event_name`.
    pub event_name: Arc<str>,
    /// `cus_…`.
    pub customer: String,
    /// Units.
    pub value: u64,
    /// Unique for ever; at most 100 characters.
    pub identifier: String,
    /// Unix seconds: 35 days past to 5 minutes ahead.
    pub timestamp: i64,
}

impl Event {
    /// The typed request; the same event gives the same bytes once prepared.
    pub fn request(&self) -> RequestBuilder {
        let payload = HashMap::from([
            (CUSTOMER_KEY.to_owned(), self.customer.clone()),
            (VALUE_KEY.to_owned(), self.value.to_string()),
        ]);
        CreateBillingMeterEvent::new(&*self.event_name, payload)
            .identifier(&self.identifier)
            .timestamp(self.timestamp)
            .build()
    }
}

/// A half-open span for summaries, in whole minutes as Stripe wants them. Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// First second.
    pub start_s: i64,
    /// First second after it.
    pub end_s: i64,
}

impl Client {
    /// Operations over `transport`.
    pub fn new(transport: Arc<Transport>) -> Self {
        Self { transport }
    }

    /// What they go over.
    pub fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Creates a customer. Repeating it with the same key within a day answers the same customer.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn create_customer(&self, new: &NewCustomer, key: IdempotencyKey) -> Result<Customer, CallError> {
        let metadata = HashMap::from([("tollgate_tenant".to_owned(), new.tenant.clone())]);
        let mut request = CreateCustomer::new().metadata(metadata);
        if let Some(name) = &new.name {
            request = request.name(name);
        }
        if let Some(email) = &new.email {
            request = request.email(email);
        }
        self.post(&request, key).await
    }

    /// The customer, deleted or not; `None` if there never was one.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn customer(&self, id: &str) -> Result<Option<Customer>, CallError> {
        object_id(id)?;
        match self.get(&RetrieveCustomer::new(id)).await {
            Ok(customer) => Ok(Some(customer)),
            Err(CallError::Refused(refused)) if refused.status == 404 => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All active meters.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn meters(&self) -> Result<Vec<Meter>, CallError> {
        let first = ListBillingMeter::new().limit(PAGE).status(BillingMeterStatus::Active);
        self.list(|after| match after {
            None => first.build(),
            Some(Meter { id, .. }) => first.clone().starting_after(id).build(),
        })
        .await
    }

    /// The active meter with this `event_name`.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn meter_by_event(&self, event_name: &str) -> Result<Option<Meter>, CallError> {
        Ok(self.meters().await?.into_iter().find(|meter| meter.event_name == event_name))
    }

    /// Creates a meter that reads its events as [`Event`] writes them.
    ///
    /// # Errors
    /// [`CallError`]; Stripe refuses a second active meter with the same `event_name`.
    pub async fn create_meter(
        &self,
        name: &str,
        event_name: &str,
        kind: MeterKind,
        key: IdempotencyKey,
    ) -> Result<Meter, CallError> {
        let mapping = CreateBillingMeterCustomerMapping::new(CUSTOMER_KEY, CreateBillingMeterCustomerMappingType::ById);
        let request =
            CreateBillingMeter::new(CreateBillingMeterDefaultAggregation::new(formula(kind)), name, event_name)
                .customer_mapping(mapping)
                .value_settings(CreateBillingMeterValueSettings::new(VALUE_KEY));
        self.post(&request, key).await
    }

    /// The active meter with this `event_name`, made if there is none.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::Invalid`] if there is one that aggregates otherwise: it cannot be changed at
    /// Stripe, and its sums would not be ours.
    pub async fn ensure_meter(&self, name: &str, event_name: &str, kind: MeterKind) -> Result<Meter, CallError> {
        let meter = match self.meter_by_event(event_name).await? {
            Some(meter) => meter,
            None => self.create_or_find(name, event_name, kind).await?,
        };
        if meter.default_aggregation.formula != formula(kind).as_str() {
            let (found, want) = (&meter.default_aggregation.formula, formula(kind));
            let text =
                format!("meter {} of event {event_name:?} aggregates by {found}, not {}", meter.id, want.as_str());
            return Err(CallError::Invalid(text));
        }
        Ok(meter)
    }

    async fn create_or_find(&self, name: &str, event_name: &str, kind: MeterKind) -> Result<Meter, CallError> {
        let key = IdempotencyKey::random().map_err(|e| CallError::Invalid(format!("no randomness: {e}")))?;
        let refused = match self.create_meter(name, event_name, kind, key).await {
            Err(CallError::Refused(refused)) => refused,
            other => return other,
        };
        // Another node may have made it in the meantime.
        self.meter_by_event(event_name).await?.ok_or(CallError::Refused(refused))
    }

    /// Sends a meter event until there is a definite answer; a duplicate of itself is a success.
    ///
    /// The reporter does not use this: it keeps account of every attempt.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn create_meter_event(&self, event: &Event) -> Result<(), CallError> {
        match self.transport.call(&event.request(), IdempotencyKey::named(&event.identifier, 0)).await {
            Ok(answer) => decode::<MeterEvent>(&answer).map(drop),
            Err(CallError::Refused(refused)) if refused.is_duplicate_of(&event.identifier) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// What a meter holds of one customer in a span, by Stripe's (eventually consistent) summaries.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn summaries(&self, meter: &str, customer: &str, span: Span) -> Result<Vec<Summary>, CallError> {
        object_id(meter)?;
        let id = BillingMeterId::from(meter);
        let first = ListIdBillingMeterEventSummary::new(id, customer, span.end_s, span.start_s).limit(PAGE);
        self.list(|after| match after {
            None => first.build(),
            Some(Summary { id, .. }) => first.clone().starting_after(id).build(),
        })
        .await
    }

    /// The sum of [`Client::summaries`], in units.
    ///
    /// # Errors
    /// [`CallError`]; [`CallError::Unreadable`] if the values are not whole units.
    pub async fn metered(&self, meter: &str, customer: &str, span: Span) -> Result<u64, CallError> {
        let summaries = self.summaries(meter, customer, span).await?;
        summaries
            .iter()
            .try_fold(0_u64, |sum, summary| sum.checked_add(summary.units()?))
            .ok_or_else(|| CallError::Unreadable(format!("summaries of {customer} in {meter} are not whole units")))
    }

    async fn post<T: DeserializeOwned>(
        &self,
        request: &impl StripeRequest,
        key: IdempotencyKey,
    ) -> Result<T, CallError> {
        decode(&self.transport.call(&request.build(), key).await?)
    }

    async fn get<T: DeserializeOwned>(&self, request: &impl StripeRequest) -> Result<T, CallError> {
        self.get_built(&request.build()).await
    }

    /// GETs carry no key.
    async fn get_built<T: DeserializeOwned>(&self, request: &RequestBuilder) -> Result<T, CallError> {
        decode(&self.transport.call(request, IdempotencyKey::named("", 0)).await?)
    }

    /// All pages of a list; `page` builds the request for what follows an item.
    async fn list<T: DeserializeOwned>(
        &self,
        page: impl Fn(Option<&T>) -> RequestBuilder,
    ) -> Result<Vec<T>, CallError> {
        let mut all: Vec<T> = Vec::new();
        for _ in 0..MAX_PAGES {
            let List { data, has_more } = self.get_built::<List<T>>(&page(all.last())).await?;
            let done = !has_more || data.is_empty();
            all.extend(data);
            if done {
                return Ok(all);
            }
        }
        Err(CallError::Unreadable(format!("a list has more than {MAX_PAGES} pages")))
    }
}

fn formula(kind: MeterKind) -> CreateBillingMeterDefaultAggregationFormula {
    match kind {
        MeterKind::Counter => CreateBillingMeterDefaultAggregationFormula::Sum,
        MeterKind::Gauge => CreateBillingMeterDefaultAggregationFormula::Last,
    }
}

fn decode<T: DeserializeOwned>(answer: &Answer) -> Result<T, CallError> {
    serde_json::from_slice(&answer.body).map_err(|error| {
        let request = answer.head.request_id.as_deref().unwrap_or("without id");
        CallError::Unreadable(format!("{error} [{request}]"))
    })
}

/// An id that can stand in a path; the transport refuses the other characters.
fn object_id(id: &str) -> Result<(), CallError> {
    if id.is_empty() || id.contains('/') { Err(CallError::Invalid(format!("{id:?} is no id"))) } else { Ok(()) }
}
