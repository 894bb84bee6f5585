//! Stripe's side of the node: the sandbox where it stands in, the client, and the reporter.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::settings::{Secret, Settings, StripeMode};
use crate::pricing::Pricing;
use crate::records::Records;
use crate::sandbox::{self, Sandbox};
use crate::stripe::client::{Client, NewCustomer, Span};
use crate::stripe::rate::Rates;
use crate::stripe::report::{self, Reporter};
use crate::stripe::transport::{self, Transport};
use crate::stripe::{IdempotencyKey, transport::API_BASE};

/// How long [`Billing::report_now`] goes on.
const REPORT_PATIENCE: Duration = Duration::from_secs(60);

/// How soon to look for the meters again.
const METERS_AGAIN: Duration = Duration::from_secs(5);

/// Stripe, as this node sees it.
pub struct Billing {
    client: Client,
    reporter: Reporter,
    base: String,
    clock: Clock,
    pricing: ArcSwap<Pricing>,
    sandbox: tokio::sync::Mutex<Option<Sandbox>>,
}

impl Billing {
    /// Connects to Stripe, or to a sandbox of our own; `None` with `stripe.mode: off`.
    ///
    /// # Errors
    /// When the sandbox cannot start, or the key is missing.
    pub(super) async fn start(
        settings: &Settings,
        pricing: &Pricing,
        records: &Records,
        clock: &Clock,
    ) -> anyhow::Result<Option<Self>> {
        let stripe = &settings.stripe;
        let sandbox = match (stripe.mode, &stripe.api_base) {
            (StripeMode::Off, _) => return Ok(None),
            (StripeMode::Sandbox, None) => {
                Some(sandbox::start(sandbox::Config::on_loopback(clock.clone())).await.context("the Stripe sandbox")?)
            }
            (StripeMode::Sandbox, Some(_)) | (StripeMode::Test | StripeMode::Live, _) => None,
        };
        let base = match (&sandbox, &stripe.api_base) {
            (Some(sandbox), _) => sandbox.url(),
            (None, Some(base)) => base.to_string(),
            (None, None) => API_BASE.to_owned(),
        };
        let key = match (&sandbox, &stripe.secret_key) {
            (Some(sandbox), _) => Secret::new(sandbox.secret_key.clone()),
            (None, Some(key)) => key.clone(),
            (None, None) => anyhow::bail!("stripe.secret_key is needed with stripe.mode: test and live"),
        };
        let rates = if stripe.mode == StripeMode::Test { Rates::TEST } else { Rates::LIVE };
        let config = transport::Config::new(base.parse()?, key);
        let config = transport::Config { version: stripe.api_version.clone(), rates, ..config };
        let client = Client::new(Arc::new(Transport::new(config)?));
        if sandbox.is_some() {
            ensure_meters(&client, pricing).await?;
        }
        let config = report::Config { flush: stripe.flush, ..report::Config::default() };
        let meters = report::meters(pricing);
        let reporter = Reporter::new(records.clone(), client.clone(), clock.clone(), config, meters);
        Ok(Some(Self {
            client,
            reporter,
            base,
            clock: clock.clone(),
            pricing: ArcSwap::from_pointee(pricing.clone()),
            sandbox: tokio::sync::Mutex::new(sandbox),
        }))
    }

    /// Where Stripe is.
    #[must_use]
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Typed calls to Stripe.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Creates a customer for `tenant`; the same tenant gets the same customer again within a day.
    ///
    /// # Errors
    /// What Stripe says.
    pub async fn create_customer(&self, tenant: &str, email: &str) -> anyhow::Result<String> {
        let new = NewCustomer { email: Some(email.to_owned()), tenant: tenant.to_owned(), name: None };
        let key = IdempotencyKey::named(&format!("customer-{tenant}"), 0);
        Ok(self.client.create_customer(&new, key).await?.id)
    }

    /// What Stripe's meters hold of `customer`, summed, over the last day and up to now.
    ///
    /// # Errors
    /// What Stripe says.
    pub async fn total(&self, customer: &str) -> anyhow::Result<u64> {
        let minute_s = self.clock.now_s().div_euclid(60) * 60;
        let span = Span { start_s: minute_s - 86_400, end_s: minute_s + 600 };
        let mut total = 0_u64;
        for meter in self.client.meters().await? {
            total = total.saturating_add(self.client.metered(&meter.id, customer, span).await?);
        }
        Ok(total)
    }

    pub(super) async fn run(&self, stop: CancellationToken) {
        // A report to a meter that does not exist would be refused for good.
        while let Err(error) = ensure_meters(&self.client, &self.pricing.load()).await {
            tracing::warn!(%error, "reports wait: the meters could not be looked up at Stripe");
            if stop.run_until_cancelled(tokio::time::sleep(METERS_AGAIN)).await.is_none() {
                return;
            }
        }
        self.reporter.run(stop).await;
    }

    pub(super) async fn report_now(&self) -> anyhow::Result<()> {
        let flushed = self.reporter.flush_now(REPORT_PATIENCE).await?;
        anyhow::ensure!(flushed.left == 0, "Stripe has not answered for {} reports", flushed.left);
        Ok(())
    }

    /// After a change of the prices; a new meter is made at Stripe before anything is reported to it.
    pub(super) async fn set_pricing(&self, pricing: &Arc<Pricing>) {
        self.pricing.store(Arc::clone(pricing));
        if let Err(error) = ensure_meters(&self.client, pricing).await {
            tracing::warn!(%error, "the changed meters could not be looked up at Stripe");
        }
        self.reporter.set_meters(report::meters(pricing));
    }

    pub(super) async fn stop(&self) {
        if let Some(sandbox) = self.sandbox.lock().await.take() {
            sandbox.stop().await;
        }
    }
}

/// Makes the meters that are missing at Stripe; those that are there stay as they are.
async fn ensure_meters(client: &Client, pricing: &Pricing) -> anyhow::Result<()> {
    for meter in &pricing.meters {
        client.ensure_meter(&meter.name, &meter.stripe_event, meter.kind).await?;
    }
    Ok(())
}
