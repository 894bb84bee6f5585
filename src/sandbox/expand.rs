//! `expand[]=…`: fields that are left out, or are ids, unless somebody asks for the whole.

use std::collections::BTreeSet;

use super::errors::ApiError;
use super::params::{Params, TEXT};

/// What a call wants expanded; only names its operation knows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Expand(BTreeSet<&'static str>);

impl Expand {
    /// Takes `expand` of a call that answers with one object.
    pub(super) fn of_object(params: &mut Params, known: &[&'static str]) -> Result<Self, ApiError> {
        Self::take(params, known, "")
    }

    /// Takes `expand` of a call that answers with a list: names begin with `data.`.
    pub(super) fn of_list(params: &mut Params, known: &[&'static str]) -> Result<Self, ApiError> {
        Self::take(params, known, "data.")
    }

    /// Whether `name` is to be expanded.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }

    fn take(params: &mut Params, known: &[&'static str], prefix: &str) -> Result<Self, ApiError> {
        let wanted = params.texts("expand", TEXT)?.unwrap_or_default();
        let find = |text: &String| {
            let name = text.strip_prefix(prefix)?;
            known.iter().copied().find(|known| *known == name)
        };
        let refuse =
            |text: &String| ApiError::invalid(format!("This property cannot be expanded ({text}).")).param("expand");
        wanted.iter().map(|text| find(text).ok_or_else(|| refuse(text))).collect::<Result<_, _>>().map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::form;

    fn params(raw: &str) -> Params {
        Params::new(form::parse(raw).unwrap())
    }

    #[test]
    fn only_known_names_can_be_expanded() {
        assert!(Expand::of_object(&mut params("expand[]=tiers"), &["tiers"]).unwrap().has("tiers"));
        assert!(Expand::of_list(&mut params("expand[]=data.tiers"), &["tiers"]).unwrap().has("tiers"));
        let error = Expand::of_list(&mut params("expand[]=tiers"), &["tiers"]).unwrap_err();
        assert_eq!(error.message, "This property cannot be expanded (tiers).");
    }
}
