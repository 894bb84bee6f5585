//! What is due when: at most one entry for each subscription, invoice and checkout session.

use std::collections::{BTreeSet, HashMap};

/// Whose time it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Scope {
    /// The sandbox's.
    Sandbox,
    /// A test clock's.
    Clock(String),
}

/// Which object is to look what is due.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Job {
    /// Before renewals at the same second: an earlier period is closed first.
    Invoice(String),
    Subscription(String),
    Session(String),
}

/// The entries of all scopes.
#[derive(Debug, Default)]
pub(super) struct Agenda {
    due: HashMap<Scope, BTreeSet<(i64, Job)>>,
    entries: HashMap<Job, (Scope, i64)>,
}

impl Agenda {
    /// Enters a job at a time (Unix seconds) in place of its earlier entry; `None` takes it out.
    pub(super) fn set(&mut self, scope: &Scope, job: Job, at: Option<i64>) {
        if let Some((scope, at)) = self.entries.remove(&job)
            && let Some(due) = self.due.get_mut(&scope)
        {
            due.remove(&(at, job.clone()));
        }
        if let Some(at) = at {
            self.due.entry(scope.clone()).or_default().insert((at, job.clone()));
            self.entries.insert(job, (scope.clone(), at));
        }
    }

    /// Takes the first job that is due by `until`.
    pub(super) fn take(&mut self, scope: &Scope, until: i64) -> Option<(i64, Job)> {
        let due = self.due.get_mut(scope)?;
        let (at, job) = due.first().filter(|(at, _)| *at <= until)?.clone();
        due.remove(&(at, job.clone()));
        self.entries.remove(&job);
        Some((at, job))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_come_in_order_and_a_new_entry_replaces_the_old_one() {
        let (mut agenda, scope) = (Agenda::default(), Scope::Sandbox);
        agenda.set(&scope, Job::Subscription("a".into()), Some(5));
        agenda.set(&scope, Job::Invoice("b".into()), Some(5));
        agenda.set(&scope, Job::Session("c".into()), Some(1));
        agenda.set(&scope, Job::Session("c".into()), Some(9));
        agenda.set(&Scope::Clock("x".into()), Job::Invoice("d".into()), Some(0));
        let taken: Vec<(i64, Job)> = std::iter::from_fn(|| agenda.take(&scope, 8)).collect();
        assert_eq!(taken, [(5, Job::Invoice("b".into())), (5, Job::Subscription("a".into()))]);
        assert_eq!(agenda.take(&scope, 9), Some((9, Job::Session("c".into()))));
    }
}
