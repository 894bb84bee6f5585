//! What one word of the configuration can mean: numbers, durations, sizes, addresses, prices. Pure text to value.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::time::Duration;

use http::{HeaderName, Uri};
use rust_decimal::Decimal;

use super::settings::Cidr;
use super::tree::{Scalar, Style};

/// A way to read a scalar, and the words for a message when it does not fit.
pub(super) struct Kind<T> {
    /// "… is not `name`".
    pub(super) name: &'static str,
    /// "allowed: …".
    pub(super) allowed: &'static str,
    pub(super) parse: fn(&Scalar) -> Option<T>,
}

/// Any text, empty excepted.
pub(super) const TEXT: Kind<String> = Kind {
    name: "a text",
    allowed: "a text that is not empty",
    parse: |scalar| Some(scalar.text.clone()).filter(|text| !text.is_empty() && !text.contains(char::is_control)),
};

/// Letters, digits, `_`, `-`, `.`: what goes into a header, a metric label and a path without quoting.
pub(super) const NAME: Kind<String> = Kind {
    name: "a name",
    allowed: "1 to 64 of A-Z a-z 0-9 _ - .",
    parse: |scalar| Some(scalar.text.clone()).filter(|name| is_name(name)),
};

/// `true` or `false`.
pub(super) const FLAG: Kind<bool> = Kind {
    name: "a truth value",
    allowed: "true, false",
    parse: |scalar| plain(scalar).and_then(|text| text.parse().ok()),
};

/// A whole number that is not negative.
pub(super) const COUNT: Kind<usize> = Kind {
    name: "a number",
    allowed: "a whole number, 0 or more, without quotes",
    parse: |scalar| plain(scalar).and_then(digits),
};

/// Most units that one number in the configuration may mean: 15 digits, as many as Stripe takes in a meter event.
pub(super) const MAX_UNITS: u64 = 999_999_999_999_999;

/// Units of a meter.
pub(super) const UNITS: Kind<u64> = Kind {
    name: "a number of units",
    allowed: "a whole number from 0 to 999999999999999 (15 digits, as Stripe's meters), without quotes",
    parse: |scalar| plain(scalar).and_then(digits::<u64>).filter(|units| *units <= MAX_UNITS),
};

/// A length of time.
pub(super) const DURATION: Kind<Duration> = Kind {
    name: "a duration",
    allowed: "a whole number with its unit, ms s m h d: 250ms, 60s, 5m, 24h, 14d",
    parse: |scalar| duration(&scalar.text),
};

/// A number of bytes.
pub(super) const SIZE: Kind<u64> = Kind {
    name: "a size",
    allowed: "a whole number of bytes, or one with its unit, KiB MiB GiB TiB: 64KiB, 1GiB",
    parse: |scalar| size(&scalar.text),
};

/// Address and port of a socket.
pub(super) const SOCKET: Kind<SocketAddr> = Kind {
    name: "an address with a port",
    allowed: "ADDRESS:PORT, for example 127.0.0.1:8080 or [::]:8080",
    parse: |scalar| scalar.text.parse().ok(),
};

/// A block of addresses or one address.
pub(super) const CIDR: Kind<Cidr> = Kind {
    name: "a block of addresses",
    allowed: "NETWORK/BITS with no bits set behind BITS, or one address: 10.0.0.0/8, fd00::/8, 127.0.0.1",
    parse: |scalar| cidr(&scalar.text),
};

/// Where an origin listens.
pub(super) const ORIGIN: Kind<Uri> = Kind {
    name: "an origin",
    allowed: "http://HOST:PORT, without path, query or user; https is not supported in this version",
    parse: |scalar| base(&scalar.text).filter(|uri| uri.scheme_str() == Some("http") && uri.path() == "/"),
};

/// A base address of an HTTP API.
pub(super) const BASE: Kind<Uri> = Kind {
    name: "a base URL",
    allowed: "http://HOST[:PORT][/PATH] or https://…, without query or user",
    parse: |scalar| base(&scalar.text),
};

/// The name of a header.
pub(super) const HEADER: Kind<HeaderName> = Kind {
    name: "a header that can carry this",
    allowed: "a header name such as X-API-Key; not one that HTTP itself uses (Host, Connection, Content-Length …)",
    parse: |scalar| HeaderName::from_str(&scalar.text).ok().filter(|name| !HTTPS_OWN.contains(&name.as_str())),
};

/// A SHA-256 in hexadecimal.
pub(super) const SHA256: Kind<[u8; 32]> = Kind {
    name: "a SHA-256",
    allowed: "64 hexadecimal digits, as printed by: printf %s TOKEN | sha256sum",
    parse: |scalar| <[u8; 32]>::try_from(hex::decode(&scalar.text).ok()?).ok(),
};

/// A decimal number that is not negative, exactly as written: at most 12 places.
pub(super) const DECIMAL: Kind<Decimal> = Kind {
    name: "an amount of money",
    allowed: "a decimal number, 0 or more, at most 12 places, without quotes or currency: 29 or 0.015",
    parse: |scalar| plain(scalar).and_then(decimal),
};

/// Requests per time: how many, per how many milliseconds.
pub(super) const PER_TIME: Kind<(u32, u64)> = Kind {
    name: "a rate",
    allowed: "a whole number from 1 on per s, m or h: 20/s, 600/m",
    parse: |scalar| per_time(&scalar.text),
};

/// Headers that frame or route a message; a credential in them could not be told from the protocol.
const HTTPS_OWN: &[&str] = &[
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "proxy-connection",
    "expect",
    "content-type",
    "date",
];

fn plain(scalar: &Scalar) -> Option<&str> {
    (scalar.style == Style::Plain).then_some(scalar.text.as_str())
}

/// Digits only: no sign, no `_`, no `0x`, no exponent, no leading zero that YAML 1.1 would read as octal.
fn digits<T: FromStr>(text: &str) -> Option<T> {
    let clean = text.chars().all(|c| c.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    clean.then(|| text.parse().ok()).flatten()
}

/// Number and the letters behind it.
fn split(text: &str) -> Option<(u64, &str)> {
    let unit = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    Some((digits(&text[..unit])?, &text[unit..]))
}

/// Longest duration: ten years; sums of any two stay far from every overflow.
const MAX_DURATION: Duration = Duration::from_secs(3650 * 86_400);

fn duration(text: &str) -> Option<Duration> {
    let (count, unit) = split(text)?;
    let unit_ms: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(count.checked_mul(unit_ms)?)).filter(|length| *length <= MAX_DURATION)
}

fn size(text: &str) -> Option<u64> {
    let (count, unit) = split(text)?;
    let bytes: u64 = match unit {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "TiB" => 1 << 40,
        _ => return None,
    };
    count.checked_mul(bytes).filter(|bytes| i64::try_from(*bytes).is_ok())
}

fn per_time(text: &str) -> Option<(u32, u64)> {
    let (count, unit) = text.split_once('/')?;
    let per_ms = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    Some((digits::<u32>(count).filter(|count| *count > 0)?, per_ms))
}

fn cidr(text: &str) -> Option<Cidr> {
    let (addr, prefix) = match text.split_once('/') {
        Some((addr, prefix)) => (addr.parse().ok()?, Some(digits(prefix)?)),
        None => (text.parse().ok()?, None),
    };
    let (bits, number) = match addr {
        IpAddr::V4(v4) => (32, u128::from(v4.to_bits()) << 96),
        IpAddr::V6(v6) => (128, v6.to_bits()),
    };
    let prefix = prefix.unwrap_or(bits);
    let host_bits = number.checked_shl(u32::from(prefix)).unwrap_or(0);
    (prefix <= bits && host_bits == 0).then_some(Cidr { addr, prefix })
}

fn base(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let authority = uri.authority()?;
    let http = matches!(uri.scheme_str(), Some("http" | "https"));
    // A port that is out of range reads as none; say so here and not at the first connection.
    let port = authority.as_str() == authority.host() || authority.port_u16().is_some_and(|port| port > 0);
    let clean = uri.query().is_none() && !text.contains('#') && !authority.as_str().contains('@');
    (http && port && clean && !authority.host().is_empty()).then_some(uri)
}

fn decimal(text: &str) -> Option<Decimal> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let written = digits::<u64>(whole).is_some() && !fraction.is_empty() && fraction.len() <= 12;
    let digits_only = fraction.chars().all(|c| c.is_ascii_digit());
    // 15 digits before the point: with 12 behind it 27 in all, which a Decimal (28) holds exactly.
    (written && digits_only && whole.len() <= 15).then(|| Decimal::from_str_exact(text).ok()).flatten()
}

fn is_name(name: &str) -> bool {
    (1..=64).contains(&name.len()) && name.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c))
}

/// Whether `name` may name a plan, meter or feature.
pub(super) fn good_name(name: &str) -> bool {
    is_name(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read<T>(kind: &Kind<T>, text: &str) -> Option<T> {
        (kind.parse)(&Scalar { text: text.to_owned(), style: Style::Plain })
    }

    #[test]
    fn durations() {
        for (text, ms) in [("250ms", 250), ("60s", 60_000), ("5m", 300_000), ("24h", 86_400_000), ("0s", 0)] {
            assert_eq!(read(&DURATION, text), Some(Duration::from_millis(ms)), "{text}");
        }
        assert_eq!(read(&DURATION, "14d"), Some(Duration::from_secs(14 * 86_400)));
        for text in ["", "5", "s", "1.5s", "-1s", "5 s", "1h30m", "4000d", "99999999999999999999d", "5S"] {
            assert_eq!(read(&DURATION, text), None, "{text}");
        }
    }

    #[test]
    fn sizes_and_rates() {
        assert_eq!(read(&SIZE, "64KiB"), Some(65_536));
        assert_eq!(read(&SIZE, "1GiB"), Some(1 << 30));
        assert_eq!(read(&SIZE, "512"), Some(512));
        assert_eq!(read(&SIZE, "1KB"), None);
        assert_eq!(read(&SIZE, "9999999999TiB"), None);
        assert_eq!(read(&PER_TIME, "20/s"), Some((20, 1_000)));
        assert_eq!(read(&PER_TIME, "600/m"), Some((600, 60_000)));
        assert_eq!(read(&PER_TIME, "0/s"), None);
        assert_eq!(read(&PER_TIME, "20"), None);
        assert_eq!(read(&PER_TIME, "20/d"), None);
    }

    #[test]
    fn numbers_are_digits_and_nothing_else() {
        assert_eq!(read(&UNITS, "999999999999999"), Some(MAX_UNITS));
        for text in ["1000000000000000", "-1", "+1", "1_000", "0x10", "010", "1e3", "1.0", "", "٣"] {
            assert_eq!(read(&UNITS, text), None, "{text}");
        }
        let quoted = Scalar { text: "1".into(), style: Style::Quoted };
        assert_eq!((UNITS.parse)(&quoted), None);
    }

    #[test]
    fn prices_keep_every_place() {
        assert_eq!(read(&DECIMAL, "0.000000000001").map(|price| price.to_string()).as_deref(), Some("0.000000000001"));
        assert_eq!(
            read(&DECIMAL, "999999999999999.999999999999").map(|price| price.to_string()).as_deref(),
            Some("999999999999999.999999999999")
        );
        for text in ["0.0000000000001", "-1", ".5", "1.", "1e2", "1,5", "$1", "NaN", ".inf", "1.-5"] {
            assert_eq!(read(&DECIMAL, text), None, "{text}");
        }
    }

    #[test]
    fn blocks_of_addresses() {
        assert_eq!(read(&CIDR, "10.0.0.0/8"), Some(Cidr { addr: IpAddr::from([10, 0, 0, 0]), prefix: 8 }));
        assert_eq!(read(&CIDR, "127.0.0.1"), Some(Cidr { addr: IpAddr::from([127, 0, 0, 1]), prefix: 32 }));
        assert_eq!(read(&CIDR, "0.0.0.0/0"), Some(Cidr { addr: IpAddr::from([0, 0, 0, 0]), prefix: 0 }));
        assert_eq!(read(&CIDR, "::1").map(|cidr| cidr.prefix), Some(128));
        assert_eq!(read(&CIDR, "fd00::/8").map(|cidr| cidr.prefix), Some(8));
        for text in ["10.0.0.1/8", "10.0.0.0/33", "::/129", "10.0.0/8", "x", "10.0.0.0/"] {
            assert_eq!(read(&CIDR, text), None, "{text}");
        }
    }

    #[test]
    fn addresses() {
        assert!(read(&ORIGIN, "http://127.0.0.1:9000").is_some());
        assert!(read(&ORIGIN, "http://[::1]:9000").is_some());
        assert!(read(&ORIGIN, "http://origin").is_some());
        for text in
            ["https://a", "http://a/x", "http://a?x", "a:80", "http://", "http://u@a", "http://a:99999", "http://a:0"]
        {
            assert!(read(&ORIGIN, text).is_none(), "{text}");
        }
        assert!(read(&BASE, "https://api.stripe.com").is_some());
        assert!(read(&BASE, "ftp://a").is_none());
        assert!(read(&HEADER, "X-API-Key").is_some());
        assert!(read(&HEADER, "Host").is_none());
        assert!(read(&HEADER, "a b").is_none());
    }

    proptest! {
        #[test]
        fn decimals_come_back_as_written(whole in 0..1_000_000_u64, places in "[0-9]{1,12}") {
            let text = format!("{whole}.{places}");
            prop_assert_eq!(read(&DECIMAL, &text).map(|price| price.to_string()), Some(text));
        }

        #[test]
        fn nothing_panics(text in "\\PC{0,24}") {
            let _ = (read(&DURATION, &text), read(&SIZE, &text), read(&CIDR, &text), read(&BASE, &text));
            let _ = (read(&DECIMAL, &text), read(&PER_TIME, &text), read(&UNITS, &text), read(&HEADER, &text));
        }
    }
}
