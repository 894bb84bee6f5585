//! Bytes on disk: 64-byte slots for records, 64 bytes of header per segment. Pure.
//!
//! Everything is little-endian. The last four bytes of a slot are a CRC-32 taken over all 64 bytes with the segment's
//! salt standing in their place: a record is valid only in the segment it was written to, so what an older file left in
//! a reused block can never pass for one. (64 bytes also keep the checksum on its fast path; 60 would not.)

use crate::journal::record::{Outcome, Record};
use crate::units::{KeyNum, NameId, NodeId, PeriodId, TenantNum};

/// Bytes of one record, and of a segment's identity.
pub(super) const SLOT: usize = 64;

/// A record's bytes.
pub(super) type Slot = [u8; SLOT];

/// What lies in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// A whole record.
    Record(Record),
    /// All zero: nothing was written here yet.
    Empty,
    /// Neither: torn, flipped, or another segment's.
    Bad,
}

/// The bytes of `record` in the segment with this salt.
#[inline]
pub(super) fn encode(record: &Record, salt: u32) -> Slot {
    let mut slot = [0; SLOT];
    slot[0..8].copy_from_slice(&record.seq.to_le_bytes());
    slot[8..16].copy_from_slice(&record.at_ms.to_le_bytes());
    slot[16..24].copy_from_slice(&record.tenant.0.to_le_bytes());
    slot[24..32].copy_from_slice(&record.key.0.to_le_bytes());
    slot[32..40].copy_from_slice(&record.period.0.to_le_bytes());
    slot[40..48].copy_from_slice(&record.units.to_le_bytes());
    slot[48..52].copy_from_slice(&record.meter.0.to_le_bytes());
    slot[52..56].copy_from_slice(&record.route.0.to_le_bytes());
    slot[56..58].copy_from_slice(&record.status.to_le_bytes());
    slot[58] = record.outcome.code();
    slot[59] = record.requests;
    seal(&mut slot, salt);
    slot
}

/// What `slot` holds, read as part of the segment with this salt.
pub(super) fn decode(slot: &Slot, salt: u32) -> Content {
    if slot.iter().all(|byte| *byte == 0) {
        return Content::Empty;
    }
    match Outcome::from_code(slot[58]) {
        Some(outcome) if is_sealed(slot, salt) => Content::Record(fields(slot, outcome)),
        Some(_) | None => Content::Bad,
    }
}

fn fields(slot: &Slot, outcome: Outcome) -> Record {
    Record {
        seq: u64::from_le_bytes(part(slot, 0)),
        at_ms: i64::from_le_bytes(part(slot, 8)),
        tenant: TenantNum(u64::from_le_bytes(part(slot, 16))),
        key: KeyNum(u64::from_le_bytes(part(slot, 24))),
        period: PeriodId(i64::from_le_bytes(part(slot, 32))),
        units: u64::from_le_bytes(part(slot, 40)),
        meter: NameId(u32::from_le_bytes(part(slot, 48))),
        route: NameId(u32::from_le_bytes(part(slot, 52))),
        status: u16::from_le_bytes(part(slot, 56)),
        outcome,
        requests: slot[59],
    }
}

#[inline]
fn seal(slot: &mut Slot, salt: u32) {
    slot[60..64].copy_from_slice(&salt.to_le_bytes());
    let sum = crc32fast::hash(slot);
    slot[60..64].copy_from_slice(&sum.to_le_bytes());
}

fn is_sealed(slot: &Slot, salt: u32) -> bool {
    let mut again = *slot;
    seal(&mut again, salt);
    again == *slot
}

/// `N` bytes of the slot from `at`.
fn part<const N: usize>(slot: &Slot, at: usize) -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&slot[at..at + N]);
    bytes
}

/// Who a segment belongs to and which records it holds; written once, before the file gets its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    /// The node's id.
    pub(super) node: NodeId,
    /// Whose journal on that node.
    pub(super) worker: u16,
    /// Records it has room for.
    pub(super) records: u32,
    /// Sequence number of its first record.
    pub(super) first_seq: u64,
    /// Whether the records right before `first_seq` may be missing here.
    pub(super) origin: Origin,
    /// Random: makes two segments of one place differ.
    pub(super) nonce: u32,
}

/// How a segment follows the one before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// Its first record comes right after the last one of the segment before.
    Continues,
    /// The ledger had counted further than this disk remembered: numbering went on from there.
    Jumps,
}

/// Why a header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum HeaderError {
    /// Not a segment of Tollgate's at all.
    Magic,
    /// Another format version.
    Version(u16),
    /// The checksum or a field is wrong.
    Damaged,
}

const MAGIC: [u8; 8] = *b"tollgate";
const VERSION: u16 = 1;
/// `node_` and 16 hexadecimal digits, with room to grow.
const NODE_BYTES: usize = 24;

impl Header {
    /// Sequence number of the last record it has room for.
    pub(super) fn last_seq(&self) -> u64 {
        self.first_seq.saturating_add(u64::from(self.records)).saturating_sub(1)
    }

    /// Its bytes, and the salt of its records: the header's own checksum, so that all of the identity is in it.
    pub(super) fn encode(&self) -> (Slot, u32) {
        let mut slot = [0; SLOT];
        slot[0..8].copy_from_slice(&MAGIC);
        slot[8..10].copy_from_slice(&VERSION.to_le_bytes());
        slot[10..12].copy_from_slice(&self.worker.to_le_bytes());
        slot[12..16].copy_from_slice(&self.records.to_le_bytes());
        slot[16..24].copy_from_slice(&self.first_seq.to_le_bytes());
        let node = self.node.0.as_bytes();
        let length = node.len().min(NODE_BYTES);
        slot[24..24 + length].copy_from_slice(&node[..length]);
        slot[48..52].copy_from_slice(&self.nonce.to_le_bytes());
        slot[52] = match self.origin {
            Origin::Continues => 0,
            Origin::Jumps => 1,
        };
        seal(&mut slot, 0);
        let salt = u32::from_le_bytes(part(&slot, 60));
        (slot, salt)
    }

    /// The header in `slot` and the salt of its records.
    pub(super) fn decode(slot: &Slot) -> Result<(Self, u32), HeaderError> {
        if slot[0..8] != MAGIC {
            return Err(HeaderError::Magic);
        }
        match u16::from_le_bytes(part(slot, 8)) {
            VERSION if is_sealed(slot, 0) => Self::fields(slot).ok_or(HeaderError::Damaged),
            VERSION => Err(HeaderError::Damaged),
            other => Err(HeaderError::Version(other)),
        }
    }

    fn fields(slot: &Slot) -> Option<(Self, u32)> {
        let node = slot[24..48].split(|byte| *byte == 0).next()?;
        let header = Self {
            node: NodeId(std::str::from_utf8(node).ok()?.into()),
            worker: u16::from_le_bytes(part(slot, 10)),
            records: u32::from_le_bytes(part(slot, 12)),
            first_seq: u64::from_le_bytes(part(slot, 16)),
            origin: if slot[52] == 0 { Origin::Continues } else { Origin::Jumps },
            nonce: u32::from_le_bytes(part(slot, 48)),
        };
        let usable = header.records > 0 && header.first_seq > 0;
        usable.then(|| (header, u32::from_le_bytes(part(slot, 60))))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Any record at all.
    pub(in crate::journal) fn records() -> impl Strategy<Value = Record> {
        let numbers = (1..=u64::MAX, any::<i64>(), any::<u64>(), any::<u64>(), any::<i64>(), any::<u64>());
        let small = (any::<u32>(), any::<u32>(), any::<u16>(), 1..=5_u8, any::<u8>());
        (numbers, small).prop_map(
            |((seq, at_ms, tenant, key, period, units), (meter, route, status, code, requests))| Record {
                seq,
                at_ms,
                tenant: TenantNum(tenant),
                key: KeyNum(key),
                period: PeriodId(period),
                units,
                meter: NameId(meter),
                route: NameId(route),
                status,
                outcome: Outcome::from_code(code).expect("1 to 5 are outcomes"),
                requests,
            },
        )
    }

    fn header() -> Header {
        Header {
            node: NodeId("node_0123456789abcdef".into()),
            worker: 3,
            records: 65_536,
            first_seq: 131_073,
            origin: Origin::Jumps,
            nonce: 7,
        }
    }

    proptest! {
        #[test]
        fn a_record_comes_back_as_it_went(record in records(), salt: u32) {
            prop_assert_eq!(decode(&encode(&record, salt), salt), Content::Record(record));
        }

        #[test]
        fn one_flipped_bit_is_noticed(record in records(), salt: u32, bit in 0..512_usize) {
            let mut slot = encode(&record, salt);
            slot[bit / 8] ^= 1 << (bit % 8);
            prop_assert_eq!(decode(&slot, salt), Content::Bad);
        }

        #[test]
        fn another_segments_record_is_noticed(record in records(), salt: u32, other: u32) {
            prop_assume!(salt != other);
            prop_assert_eq!(decode(&encode(&record, salt), other), Content::Bad);
        }

        #[test]
        fn a_torn_record_is_noticed(record in records(), salt: u32, written in 0..64_usize) {
            let mut slot = encode(&record, salt);
            let whole = slot;
            slot[written..].fill(0);
            prop_assume!(slot != whole);
            prop_assert!(!matches!(decode(&slot, salt), Content::Record(_)));
        }

        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes: [u8; 32], more: [u8; 32], salt: u32) {
            let mut slot = [0; SLOT];
            slot[..32].copy_from_slice(&bytes);
            slot[32..].copy_from_slice(&more);
            prop_assert!(!matches!(decode(&slot, salt), Content::Record(_)));
            prop_assert!(Header::decode(&slot).is_err());
        }
    }

    #[test]
    fn zeros_are_empty_under_every_salt() {
        for salt in [0, 1, u32::MAX] {
            assert_eq!(decode(&[0; SLOT], salt), Content::Empty);
        }
    }

    #[test]
    fn a_header_comes_back_as_it_went() {
        let (slot, salt) = header().encode();
        assert_eq!(Header::decode(&slot), Ok((header(), salt)));
    }

    #[test]
    fn the_salt_depends_on_the_whole_identity() {
        let salts = [
            header(),
            Header { worker: 4, ..header() },
            Header { first_seq: 1, ..header() },
            Header { nonce: 8, ..header() },
            Header { node: NodeId("node_fedcba9876543210".into()), ..header() },
        ]
        .map(|header| header.encode().1);
        let distinct: std::collections::BTreeSet<_> = salts.iter().collect();
        assert_eq!(distinct.len(), salts.len());
    }

    #[test]
    fn a_header_of_another_kind_says_so() {
        let (slot, _) = header().encode();
        let mut newer = slot;
        newer[8] = 2;
        assert_eq!(Header::decode(&newer), Err(HeaderError::Version(2)));
        let mut damaged = slot;
        damaged[20] ^= 1;
        assert_eq!(Header::decode(&damaged), Err(HeaderError::Damaged));
        assert_eq!(Header::decode(&[9; SLOT]), Err(HeaderError::Magic));
    }
}
