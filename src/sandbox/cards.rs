//! Stripe's test cards: what happens to each when it is saved and when it is charged.
//!
//! Source: Stripe, "Testing": card numbers and the payment methods `pm_card_…` that stand for them.

use super::errors::ApiError;

/// Why a card is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Decline {
    pub(super) code: &'static str,
    /// What the bank says; only with `card_declined`.
    pub(super) reason: Option<&'static str>,
    pub(super) message: &'static str,
}

/// What a bank says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Fine,
    Declined(Decline),
    /// The cardholder must authenticate first.
    NeedsAction,
}

impl Decline {
    const fn card_declined(decline_code: &'static str, message: &'static str) -> Self {
        Self { code: "card_declined", reason: Some(decline_code), message }
    }

    const fn plain(code: &'static str, message: &'static str) -> Self {
        Self { code, reason: None, message }
    }

    /// The 402 of a call that needed the card at once.
    pub(super) fn error(self) -> ApiError {
        let mut error = ApiError::card(self.message).code(self.code);
        error.decline_code = self.reason;
        error
    }
}

/// The decline of an off-session charge that the cardholder would have to confirm.
pub(super) const AUTHENTICATION_REQUIRED: Decline = Decline {
    code: "authentication_required",
    reason: Some("authentication_required"),
    message: "Your card was declined. This transaction requires authentication.",
};

const GENERIC: Decline = Decline::card_declined("generic_decline", "Your card was declined.");
const FUNDS: Decline = Decline::card_declined("insufficient_funds", "Your card has insufficient funds.");
const LOST: Decline = Decline::card_declined("lost_card", "Your card was declined.");
const STOLEN: Decline = Decline::card_declined("stolen_card", "Your card was declined.");
const FRAUD: Decline = Decline::card_declined("fraudulent", "Your card was declined.");
const EXPIRED: Decline = Decline::plain("expired_card", "Your card has expired.");
const CVC: Decline = Decline::plain("incorrect_cvc", "Your card's security code is incorrect.");
const PROCESSING: Decline =
    Decline::plain("processing_error", "An error occurred while processing your card. Try again in a little bit.");

/// One test card.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Card {
    /// Behind `pm_card_`.
    pub(super) name: &'static str,
    pub(super) number: &'static str,
    pub(super) brand: &'static str,
    pub(super) funding: &'static str,
    /// When it is attached or set up.
    pub(super) at_setup: Outcome,
    /// When it is charged.
    pub(super) at_charge: Outcome,
}

impl Card {
    pub(super) fn last4(&self) -> &'static str {
        self.number.get(self.number.len().saturating_sub(4)..).unwrap_or(self.number)
    }

    /// The card behind `pm_card_…`.
    pub(super) fn by_test_id(id: &str) -> Option<&'static Self> {
        let name = id.strip_prefix("pm_card_")?;
        // Stripe's documentation writes the declining ones both with and without the brand.
        let short = name.strip_prefix("visa_").unwrap_or(name);
        CARDS.iter().find(|card| card.name == name || card.name == short)
    }

    /// The card with this number, blanks left out.
    pub(super) fn by_number(number: &str) -> Option<&'static Self> {
        let digits: String = number.chars().filter(|c| !c.is_whitespace() && *c != '-').collect();
        CARDS.iter().find(|card| card.number == digits)
    }
}

const fn good(name: &'static str, number: &'static str, brand: &'static str, funding: &'static str) -> Card {
    Card { name, number, brand, funding, at_setup: Outcome::Fine, at_charge: Outcome::Fine }
}

const fn visa(name: &'static str, number: &'static str, at_setup: Outcome, at_charge: Outcome) -> Card {
    Card { name, number, brand: "visa", funding: "credit", at_setup, at_charge }
}

const fn bad(name: &'static str, number: &'static str, decline: Decline) -> Card {
    visa(name, number, Outcome::Declined(decline), Outcome::Declined(decline))
}

/// Every card the sandbox knows.
pub(super) const CARDS: &[Card] = &[
    good("visa", "4242424242424242", "visa", "credit"),
    good("debit", "4000056655665556", "visa", "debit"),
    good("mastercard", "5555555555554444", "mastercard", "credit"),
    good("amex", "378282246310005", "amex", "credit"),
    bad("chargeDeclined", "4000000000000002", GENERIC),
    bad("chargeDeclinedInsufficientFunds", "4000000000009995", FUNDS),
    bad("chargeDeclinedLostCard", "4000000000009987", LOST),
    bad("chargeDeclinedStolenCard", "4000000000009979", STOLEN),
    bad("chargeDeclinedFraudulent", "4100000000000019", FRAUD),
    bad("chargeDeclinedExpiredCard", "4000000000000069", EXPIRED),
    bad("chargeDeclinedIncorrectCvc", "4000000000000127", CVC),
    bad("chargeDeclinedProcessingError", "4000000000000119", PROCESSING),
    visa("chargeCustomerFail", "4000000000000341", Outcome::Fine, Outcome::Declined(GENERIC)),
    visa("authenticationRequired", "4000002760003184", Outcome::NeedsAction, Outcome::NeedsAction),
    visa("authenticationRequiredOnSetup", "4000002500003155", Outcome::NeedsAction, Outcome::Fine),
    visa(
        "authenticationRequiredChargeDeclinedInsufficientFunds",
        "4000008260003178",
        Outcome::NeedsAction,
        Outcome::Declined(FUNDS),
    ),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_is_found_by_its_test_id_and_its_number() {
        for (id, last4) in [
            ("pm_card_visa", "4242"),
            ("pm_card_chargeDeclined", "0002"),
            ("pm_card_visa_chargeDeclined", "0002"),
            ("pm_card_chargeCustomerFail", "0341"),
            ("pm_card_authenticationRequired", "3184"),
        ] {
            assert_eq!(Card::by_test_id(id).map(Card::last4), Some(last4), "{id}");
        }
        assert_eq!(Card::by_number("4242 4242 4242 4242").map(|card| card.name), Some("visa"));
        assert_eq!((Card::by_test_id("pm_1"), Card::by_number("1")), (None, None));
    }
}
