//! Making secrets and ids, and what may be shown of them.

use sha2::{Digest, Sha256};

use super::problem::Problem;
use crate::config::settings::Secret;

/// Characters of secrets and ids.
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// Characters of a key after `tg_`: 238 bits.
const SECRET_CHARS: usize = 40;

/// Characters of an id after `key_`: 95 bits.
const ID_CHARS: usize = 16;

/// Characters of a minted key that lists show, `tg_` included.
const SHOWN: usize = 11;

/// Shortest and longest key that may be imported, characters.
const IMPORTABLE: std::ops::RangeInclusive<usize> = 8..=512;

/// The secret of a key, with what is stored of it.
pub(super) struct KeySecret {
    /// The secret itself, if it was made here.
    pub(super) minted: Option<Secret>,
    /// What it is found by.
    pub(super) sha256: [u8; 32],
    /// What people recognise it by.
    pub(super) prefix: String,
}

impl KeySecret {
    /// A new one.
    pub(super) fn mint() -> Result<Self, Problem> {
        let secret = format!("tg_{}", random(SECRET_CHARS)?);
        let prefix = secret.chars().take(SHOWN).collect();
        Ok(Self { sha256: sha256(&secret), prefix, minted: Some(Secret::new(secret)) })
    }

    /// One that clients have already; a quarter of it, at most 8 characters, is shown.
    pub(super) fn import(secret: &str) -> Result<Self, Problem> {
        if !IMPORTABLE.contains(&secret.len()) || !secret.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(Problem::invalid("key", "8 to 512 visible ASCII characters without spaces are allowed"));
        }
        let prefix = secret.chars().take(8.min(secret.len() / 4)).collect();
        Ok(Self { minted: None, sha256: sha256(secret), prefix })
    }

    /// One that clients have already and that we are not told.
    pub(super) fn import_hash(hex_digest: &str) -> Result<Self, Problem> {
        let mut sha256 = [0; 32];
        hex::decode_to_slice(hex_digest, &mut sha256)
            .map_err(|_| Problem::invalid("sha256", "64 hexadecimal digits are allowed"))?;
        let shown = hex::encode(sha256.first_chunk::<4>().expect("a SHA-256 has 32 bytes"));
        Ok(Self { minted: None, sha256, prefix: format!("sha256:{shown}") })
    }
}

/// A new key's id.
pub(super) fn key_id() -> Result<String, Problem> {
    Ok(format!("key_{}", random(ID_CHARS)?))
}

/// An id for a request, for logs and problems.
pub(super) fn request_id() -> Result<String, Problem> {
    Ok(format!("req_{}", random(ID_CHARS)?))
}

fn sha256(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}

/// `len` characters, each of the 62 equally likely: a byte that would favour the first ones is thrown away.
fn random(len: usize) -> Result<String, Problem> {
    let fair = 256 - 256 % ALPHABET.len();
    let mut text = String::with_capacity(len);
    while text.len() < len {
        let mut bytes = [0; 64];
        getrandom::fill(&mut bytes).map_err(|error| {
            tracing::error!(%error, "the system's random source fails");
            Problem::internal()
        })?;
        let fair = bytes.iter().map(|byte| usize::from(*byte)).filter(|byte| *byte < fair);
        text.extend(fair.take(len - text.len()).map(|byte| char::from(ALPHABET[byte % ALPHABET.len()])));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn minted_keys_are_long_distinct_and_hashed() {
        let minted: Vec<KeySecret> = (0..200).map(|_| KeySecret::mint().expect("random")).collect();
        let secrets: HashSet<String> =
            minted.iter().filter_map(|key| key.minted.as_ref()).map(|secret| secret.expose().to_owned()).collect();
        assert_eq!(secrets.len(), 200);
        for key in &minted {
            let secret = key.minted.as_ref().expect("made here").expose();
            assert!(secret.starts_with("tg_") && secret.len() == 43, "{secret}");
            assert!(secret[3..].bytes().all(|b| b.is_ascii_alphanumeric()), "{secret}");
            assert_eq!(key.sha256, sha256(secret));
            assert_eq!(key.prefix, secret[..SHOWN]);
        }
        let used: HashSet<char> = secrets.iter().flat_map(|secret| secret[3..].chars()).collect();
        assert_eq!(used.len(), ALPHABET.len(), "8000 characters leave none of the 62 out");
    }

    #[test]
    fn an_imported_key_shows_little_of_itself() {
        let key = KeySecret::import("legacy-key-0123456789").expect("allowed");
        assert_eq!((key.prefix.as_str(), key.minted.is_none()), ("legac", true));
        assert_eq!(KeySecret::import("12345678").expect("allowed").prefix, "12");
        for bad in ["", "1234567", "has a space", "täglich-neu", &"x".repeat(513)] {
            assert_eq!(KeySecret::import(bad).err().and_then(|p| p.field).as_deref(), Some("key"), "{bad}");
        }
    }

    #[test]
    fn a_hash_is_64_hexadecimal_digits() {
        let digest = hex::encode(sha256("legacy-key-0123456789"));
        let key = KeySecret::import_hash(&digest.to_uppercase()).expect("either case");
        assert_eq!(key.sha256, sha256("legacy-key-0123456789"));
        assert_eq!(key.prefix, format!("sha256:{}", &digest[..8]));
        for bad in
            ["", "abc", &digest[..62], &format!("{digest}00"), &digest.replace(|c: char| c.is_ascii_digit(), "g")]
        {
            assert_eq!(KeySecret::import_hash(bad).err().and_then(|p| p.field).as_deref(), Some("sha256"), "{bad}");
        }
    }
}
