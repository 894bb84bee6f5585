//! An exchange from its reservation to its record: it ends exactly once, by a consuming call or by `Drop`.
//!
//! Dying between any two lines: before `commit` the exchange costs nothing, though the origin may have worked, and no
//! last byte has reached the client; after it, the record is in the page cache and outlives the process.

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;

use crate::accounts::tenant::InFlight;
use crate::journal::{Draft, Full, LocalWriter, Outcome, Slot};
use crate::ledger::{Budget, Node};
use crate::pricing::{ChargeOn, MeterIndex, OnAbort};
use crate::units::{KeyNum, NameId, PeriodId, TenantNum};

pub mod body;

pub use body::Metered;

/// Units reserved on one meter.
#[derive(Debug)]
pub struct Reserved {
    /// Where.
    pub budget: Arc<Budget>,
    /// Which meter of the prices.
    pub index: MeterIndex,
    /// The meter's name in the journal.
    pub meter: NameId,
    /// How many; for known costs also the price.
    pub units: u64,
}

/// Who calls what, as the journal keeps it.
#[derive(Clone, Copy, Debug)]
pub struct Subject {
    /// Who pays.
    pub tenant: TenantNum,
    /// By which key.
    pub key: KeyNum,
    /// The period, fixed here.
    pub period: PeriodId,
    /// The route's name in the journal.
    pub route: NameId,
    /// The name that a route without charges is filed under.
    pub free_meter: NameId,
    /// Admission time, Unix milliseconds.
    pub at_ms: i64,
}

/// What decides whether an ended exchange costs.
#[derive(Clone, Debug)]
pub struct Terms {
    /// Final statuses that cost.
    pub charge_on: ChargeOn,
    /// What a client that leaves pays.
    pub on_abort: OnAbort,
}

/// How far an exchange got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// The origin does not have the whole head: leaving is free.
    Admitted,
    /// The origin has the head.
    Dispatched,
    /// The origin answered with this status.
    Answered(StatusCode),
}

/// One metered exchange. Dropping it means that the client left.
#[derive(Debug)]
pub struct Exchange {
    /// Room for the records; `None` once ended.
    slot: Option<Slot>,
    reserved: Vec<Reserved>,
    subject: Subject,
    terms: Arc<Terms>,
    phase: Phase,
    _in_flight: InFlight,
}

impl Exchange {
    /// Makes room in the journal for an exchange with `reserved` units, before the origin is asked for anything.
    ///
    /// # Errors
    /// [`Full`], after giving the units back: the disk is full.
    pub fn open(
        writer: &Rc<LocalWriter>,
        subject: Subject,
        terms: &Arc<Terms>,
        reserved: Vec<Reserved>,
        in_flight: InFlight,
    ) -> Result<Self, Full> {
        let records = u32::try_from(reserved.len().max(1)).map_err(|_| Full)?;
        match writer.reserve(records) {
            Ok(slot) => Ok(Self {
                slot: Some(slot),
                reserved,
                subject,
                terms: Arc::clone(terms),
                phase: Phase::Admitted,
                _in_flight: in_flight,
            }),
            Err(full) => {
                give_back(&reserved, subject.at_ms);
                Err(full)
            }
        }
    }

    /// Units reserved, by meter.
    #[must_use]
    pub fn reserved(&self) -> &[Reserved] {
        &self.reserved
    }

    /// The origin has the whole request head: from now on a client that leaves pays.
    pub fn dispatched(&mut self) {
        self.phase = Phase::Dispatched;
    }

    /// The origin does not have the head after all; the exchange is to be tried on another connection.
    pub fn undispatched(&mut self) {
        self.phase = Phase::Admitted;
    }

    /// The origin answered.
    pub fn answered(&mut self, status: StatusCode) {
        self.phase = Phase::Answered(status);
    }

    /// The whole response is about to be handed on. Returns the sequence number of its last record.
    pub fn complete(mut self) -> u64 {
        let (status, charged) = match self.phase {
            Phase::Answered(status) => (status.as_u16(), self.terms.charge_on.covers(status)),
            Phase::Admitted | Phase::Dispatched => (0, false),
        };
        self.end(Outcome::Completed, status, charged)
    }

    /// The origin could not be reached, broke or was silent; the client got `status`. Costs nothing.
    pub fn origin_failed(mut self, status: StatusCode) {
        self.end(Outcome::OriginFailed, status.as_u16(), false);
    }

    /// The origin's response broke off: nothing was delivered whole, nothing is charged.
    pub fn origin_broke_off(mut self) {
        let status = match self.phase {
            Phase::Answered(status) => status.as_u16(),
            Phase::Admitted | Phase::Dispatched => 0,
        };
        self.end(Outcome::OriginFailed, status, false);
    }

    fn client_left(&mut self) {
        let (status, passed) = match self.phase {
            Phase::Admitted => (0, false),
            Phase::Dispatched => (0, true),
            Phase::Answered(status) => (status.as_u16(), self.terms.charge_on.covers(status)),
        };
        let charged = passed && self.terms.on_abort == OnAbort::Charge;
        self.end(Outcome::ClientLeft, status, charged);
    }

    fn end(&mut self, outcome: Outcome, status: u16, charged: bool) -> u64 {
        let Some(slot) = self.slot.take() else { return 0 };
        let subject = self.subject;
        let record = |meter, units, requests| Draft {
            at_ms: subject.at_ms,
            tenant: subject.tenant,
            key: subject.key,
            period: subject.period,
            units,
            meter,
            route: subject.route,
            status,
            outcome,
            requests,
        };
        let units = |reserved: &Reserved| if charged { reserved.units } else { 0 };
        let last = match self.reserved.as_slice() {
            [] => slot.commit(&[record(subject.free_meter, 0, 1)]),
            [one] => slot.commit(&[record(one.meter, units(one), 1)]),
            several => {
                let records: Vec<_> =
                    several.iter().enumerate().map(|(n, r)| record(r.meter, units(r), u8::from(n == 0))).collect();
                slot.commit(&records)
            }
        };
        for reserved in &self.reserved {
            reserved.budget.complete(reserved.units, units(reserved), subject.at_ms);
        }
        last
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        if self.slot.is_some() {
            self.client_left();
        }
    }
}

/// Returns reservations of an exchange that never was.
pub fn give_back(reserved: &[Reserved], now_ms: i64) {
    for reserved in reserved {
        reserved.budget.complete(reserved.units, 0, now_ms);
    }
}

/// Counts a refusal in the journal, best effort: no money hangs on it, so a full disk may lose it.
pub fn note_refused(writer: &Rc<LocalWriter>, subject: Subject, status: StatusCode) {
    if let Ok(slot) = writer.reserve(1) {
        slot.commit(&[Draft {
            at_ms: subject.at_ms,
            tenant: subject.tenant,
            key: subject.key,
            period: subject.period,
            units: 0,
            meter: subject.free_meter,
            route: subject.route,
            status: status.as_u16(),
            outcome: Outcome::Refused,
            requests: 1,
        }]);
    }
}

/// Reserves `cost` on each budget or on none.
///
/// # Errors
/// The meter's position and why, with everything given back.
pub async fn reserve_all(
    node: &Node,
    wanted: &[Reserved],
    allowance: Option<u64>,
    now_ms: i64,
) -> Result<(), (usize, crate::ledger::Short)> {
    use crate::ledger::Short;
    let mut held = Held { reserved: wanted, count: 0, now_ms };
    for (n, want) in wanted.iter().enumerate() {
        let reserved = match node.reserve(&want.budget, want.units).await {
            Err(Short::NoAnswer) => match allowance {
                Some(allowance) if want.budget.try_reserve_in_outage(want.units, allowance) => Ok(()),
                Some(_) | None => Err(Short::NoAnswer),
            },
            decided => decided,
        };
        reserved.map_err(|short| (n, short))?;
        held.count = n + 1;
    }
    held.count = 0;
    Ok(())
}

/// Reservations on the first meters while the next one is waited for: given back if that is refused, or if the client
/// leaves in the middle of the wait.
struct Held<'a> {
    reserved: &'a [Reserved],
    /// How many of them are held.
    count: usize,
    now_ms: i64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        give_back(&self.reserved[..self.count], self.now_ms);
    }
}
