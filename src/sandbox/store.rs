//! Everything one account holds.

use super::customers::Customer;
use super::errors::ApiError;
use super::meter_events::Usage;
use super::meters::Meter;
use super::params::Params;
use super::prices::Price;
use super::products::Product;
use super::shelf::Shelf;

/// The account's objects. One mutex guards all of it, so an operation is atomic.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) ids: Ids,
    pub(super) customers: Shelf<Customer>,
    pub(super) products: Shelf<Product>,
    pub(super) prices: Shelf<Price>,
    pub(super) meters: Shelf<Meter>,
    pub(super) usage: Usage,
}

impl Store {
    /// An empty account.
    pub(super) fn new(usage: Usage) -> Self {
        Self {
            ids: Ids::new(),
            customers: Shelf::new("customer"),
            products: Shelf::new("product"),
            prices: Shelf::new("price"),
            meters: Shelf::new("meter"),
            usage,
        }
    }
}

/// One call of an operation.
#[derive(Debug)]
pub(super) struct Call {
    /// The sandbox's time, milliseconds since the epoch.
    pub(super) now_ms: i64,
    /// How far summaries are behind, milliseconds.
    pub(super) lag_ms: i64,
    /// Query or body.
    pub(super) params: Params,
}

impl Call {
    /// The sandbox's time in Unix seconds.
    pub(super) fn now_s(&self) -> i64 {
        self.now_ms.div_euclid(1_000)
    }

    /// No parameter may be left.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        self.params.finish()
    }
}

/// Ids as Stripe's look: never the same twice, neither in this sandbox nor in the next one, so that records kept
/// from an earlier run never meet somebody else's customer.
#[derive(Debug)]
pub(super) struct Ids {
    salt: String,
    next: u64,
}

const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

impl Ids {
    fn new() -> Self {
        let mut random = [0_u8; 8];
        // Without the system's randomness ids are still unique within this sandbox.
        if getrandom::fill(&mut random).is_err() {
            tracing::warn!("no randomness from the system: ids of this sandbox repeat those of another one");
        }
        Self { salt: base62(u64::from_le_bytes(random), 8), next: 0 }
    }

    /// `cus_` and 14 letters.
    pub(super) fn make(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}_{}{}", self.salt, base62(self.next, 6))
    }
}

/// The last `digits` digits of a number in base 62.
fn base62(mut n: u64, digits: usize) -> String {
    let mut text = vec!['0'; digits];
    for place in text.iter_mut().rev() {
        let digit = usize::try_from(n % 62).unwrap_or_default();
        *place = char::from(ALPHABET[digit]);
        n /= 62;
    }
    text.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_differ_within_a_sandbox_and_between_two() {
        let (mut a, mut b) = (Ids::new(), Ids::new());
        let ids = [a.make("cus"), a.make("cus"), b.make("cus"), b.make("cus")];
        assert!(ids.iter().all(|id| id.len() == "cus_".len() + 14));
        assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), 4);
    }

    #[test]
    fn base62_counts() {
        assert_eq!([base62(0, 2), base62(61, 2), base62(62, 2)], ["00", "0z", "10"]);
    }
}
