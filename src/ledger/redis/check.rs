//! What a Redis must be before money depends on it: new enough, writable, never evicting, with room left.

/// Oldest version whose scripts can ask for several sections of `INFO`.
const MAJOR_AT_LEAST: u32 = 7;
/// Of `maxmemory`, in percent: a server this full is about to refuse writes.
const FULL_PERCENT: u64 = 90;

/// Why a Redis cannot be the ledger.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Too old.
    #[error("it is version {0}; Redis 7.0 or Valkey 7.2 is the oldest that will do")]
    Version(String),
    /// It would throw accounts away when memory is short.
    #[error(
        "maxmemory-policy is {0}: a ledger must not be evicted. Set `maxmemory-policy noeviction`, and give caches a Redis of their own"
    )]
    Evicts(String),
    /// Little memory is left.
    #[error("{used} of {limit} bytes of maxmemory are used: raise maxmemory, or give the ledger a Redis of its own")]
    Full {
        /// `used_memory`.
        used: u64,
        /// `maxmemory`.
        limit: u64,
    },
    /// Not writable.
    #[error("it is a replica: name its master, or use redis+sentinel://")]
    Replica,
    /// One of many.
    #[error("it is part of a Cluster: use redis+cluster://")]
    Clustered,
    /// Not one of many.
    #[error("it is not part of a Cluster: use redis://")]
    NotClustered,
    /// The answer cannot be read.
    #[error("its INFO lacks {0}: may this user run INFO?")]
    Silent(&'static str),
}

/// Judges a server by its `INFO`.
pub(super) fn judge(info: &str, cluster: bool) -> Result<(), Unfit> {
    let field = |name: &'static str| {
        let mut values = info.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        values.next().map(str::trim).ok_or(Unfit::Silent(name))
    };
    let number = |name| field(name).and_then(|text| text.parse::<u64>().map_err(|_| Unfit::Silent(name)));
    let version = field("valkey_version").or_else(|_| field("redis_version"))?;
    let major = version.split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < MAJOR_AT_LEAST) {
        return Err(Unfit::Version(version.to_owned()));
    }
    match (field("redis_mode")? == "cluster", cluster) {
        (true, false) => return Err(Unfit::Clustered),
        (false, true) => return Err(Unfit::NotClustered),
        (true, true) | (false, false) => {}
    }
    if field("role")? != "master" {
        return Err(Unfit::Replica);
    }
    let policy = field("maxmemory_policy")?;
    if policy != "noeviction" {
        return Err(Unfit::Evicts(policy.to_owned()));
    }
    let (used, limit) = (number("used_memory")?, number("maxmemory")?);
    if limit > 0 && used > limit / 100 * FULL_PERCENT {
        return Err(Unfit::Full { used, limit });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\nused_memory:100\r\nmaxmemory:0\r\n\
                        maxmemory_policy:noeviction\r\nrole:master\r\n";

    fn with(from: &str, to: &str) -> Result<(), Unfit> {
        judge(&GOOD.replace(from, to), false)
    }

    #[test]
    fn each_fault_is_named() {
        assert_eq!(judge(GOOD, false), Ok(()));
        assert_eq!(with("redis_version:7.0.15", "redis_version:7.2.4\r\nvalkey_version:8.1.0"), Ok(()));
        assert_eq!(with("7.0.15", "6.2.14"), Err(Unfit::Version("6.2.14".to_owned())));
        assert_eq!(with("noeviction", "allkeys-lru"), Err(Unfit::Evicts("allkeys-lru".to_owned())));
        assert_eq!(with("maxmemory:0", "maxmemory:105"), Err(Unfit::Full { used: 100, limit: 105 }));
        assert_eq!(with("maxmemory:0", "maxmemory:200"), Ok(()));
        assert_eq!(with("role:master", "role:slave"), Err(Unfit::Replica));
        assert_eq!(with("standalone", "cluster"), Err(Unfit::Clustered));
        assert_eq!(judge(GOOD, true), Err(Unfit::NotClustered));
        assert_eq!(judge("", false), Err(Unfit::Silent("redis_version")));
    }
}
