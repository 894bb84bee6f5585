//! The process's environment as a value, so that nothing below reads the real one.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroUsize;

/// Environment variables and what the process may use of the machine.
#[derive(Clone, PartialEq, Eq)]
pub struct Env {
    vars: BTreeMap<String, String>,
    cores: NonZeroUsize,
}

impl Env {
    /// No variables, one core.
    #[must_use]
    pub fn empty() -> Self {
        Self { vars: BTreeMap::new(), cores: NonZeroUsize::MIN }
    }

    /// This process's. Variables that are not UTF-8 are left out.
    #[must_use]
    pub fn process() -> Self {
        let vars = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        Self { vars, cores: std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN) }
    }

    /// With `name` set to `value`.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.vars.insert(name.to_owned(), value.to_owned());
        self
    }

    /// With so many cores.
    #[must_use]
    pub fn with_cores(self, cores: NonZeroUsize) -> Self {
        Self { cores, ..self }
    }

    /// The value of `name`; a variable that is set but empty counts as not set, as compose files leave them.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Cores this process may use: what `workers: auto` means.
    #[must_use]
    pub fn cores(&self) -> NonZeroUsize {
        self.cores
    }
}

/// Names only: values may be secrets.
impl fmt::Debug for Env {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Env").field("vars", &self.vars.keys()).field("cores", &self.cores).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_is_unset_and_values_stay_out_of_debug() {
        let env = Env::empty().with("A", "").with("STRIPE_SECRET_KEY", "sk_live_x");
        assert_eq!(env.get("A"), None);
        assert_eq!(env.get("STRIPE_SECRET_KEY"), Some("sk_live_x"));
        assert!(!format!("{env:?}").contains("sk_live_x"));
    }
}
