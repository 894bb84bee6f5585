//! One finished exchange (or one further meter of it), as it lies on disk: 64 bytes, little-endian, checksummed.

use crate::units::{KeyNum, NameId, PeriodId, TenantNum};

/// How an exchange ended. Stored as one byte; never renumber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Outcome {
    /// The whole response was handed to the client.
    Completed = 1,
    /// The client left after the origin had the whole request head.
    ClientLeft = 2,
    /// The origin could not be reached, broke, or was silent.
    OriginFailed = 3,
    /// Refused here (401–429, 503); the origin never saw it.
    Refused = 4,
    /// Counted by another system and posted through the API.
    External = 5,
}

impl Outcome {
    /// The byte on disk and the number in the history; never renumber.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Completed => 1,
            Self::ClientLeft => 2,
            Self::OriginFailed => 3,
            Self::Refused => 4,
            Self::External => 5,
        }
    }

    /// The outcome of that number, if there is one.
    #[must_use]
    pub const fn from_code(code: u8) -> Option<Self> {
        match code {
            1 => Some(Self::Completed),
            2 => Some(Self::ClientLeft),
            3 => Some(Self::OriginFailed),
            4 => Some(Self::Refused),
            5 => Some(Self::External),
            _ => None,
        }
    }
}

/// What the journal keeps of an exchange. The checksum (CRC-32) is the codec's business.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// Position in its worker's journal: 1, 2, 3 … without gaps. Assigned by the writer.
    pub seq: u64,
    /// Admission time, Unix milliseconds; its hour is the hour of the history.
    pub at_ms: i64,
    /// Who pays.
    pub tenant: TenantNum,
    /// By which key; `KeyNum::NONE` without one.
    pub key: KeyNum,
    /// The period fixed at admission.
    pub period: PeriodId,
    /// Units charged; 0 is counted too.
    pub units: u64,
    /// The meter's name in this node's `names`.
    pub meter: NameId,
    /// The route's name in this node's `names`.
    pub route: NameId,
    /// Status sent to the client; 0 if none was.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// 1 for the first record of an exchange, 0 for its further meters, so that requests are counted once.
    pub requests: u8,
}

/// A record before it has its place in the journal: [`Record`] without `seq`, field by field the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Draft {
    /// Admission time, Unix milliseconds.
    pub at_ms: i64,
    /// Who pays.
    pub tenant: TenantNum,
    /// By which key; `KeyNum::NONE` without one.
    pub key: KeyNum,
    /// The period fixed at admission.
    pub period: PeriodId,
    /// Units charged; 0 is counted too.
    pub units: u64,
    /// The meter's name in this node's `names`.
    pub meter: NameId,
    /// The route's name in this node's `names`.
    pub route: NameId,
    /// Status sent to the client; 0 if none was.
    pub status: u16,
    /// How it ended.
    pub outcome: Outcome,
    /// 1 for the first record of an exchange, 0 for its further meters.
    pub requests: u8,
}

impl Draft {
    /// The record it becomes at position `seq`.
    #[must_use]
    #[inline]
    pub const fn at(&self, seq: u64) -> Record {
        Record {
            seq,
            at_ms: self.at_ms,
            tenant: self.tenant,
            key: self.key,
            period: self.period,
            units: self.units,
            meter: self.meter,
            route: self.route,
            status: self.status,
            outcome: self.outcome,
            requests: self.requests,
        }
    }
}
