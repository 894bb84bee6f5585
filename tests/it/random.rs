//! Chance that can be repeated: every test that uses it prints its seed.

/// `SplitMix64`: small, and good enough to choose by.
pub(crate) struct Random(u64);

impl Random {
    #[expect(clippy::print_stdout, reason = "the test harness shows it when the test fails")]
    /// A new seed each time, or the one in `TOLLGATE_SEED`; printed, and shown when the test fails.
    pub(crate) fn seeded(test: &str) -> Self {
        let fresh = || {
            let mut bytes = [0; 8];
            getrandom::fill(&mut bytes).expect("the system has randomness");
            u64::from_le_bytes(bytes)
        };
        let seed = std::env::var("TOLLGATE_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or_else(fresh);
        println!("{test}: TOLLGATE_SEED={seed}");
        Self(seed)
    }

    /// The next number.
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// `0..n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// An index into `n` things.
    pub(crate) fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(u64::try_from(n).expect("a small number"))).expect("less than n")
    }

    /// True `percent` times of a hundred.
    pub(crate) fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// In any order.
    pub(crate) fn shuffle<T>(&mut self, things: &mut [T]) {
        for last in (1..things.len()).rev() {
            things.swap(last, self.index(last + 1));
        }
    }
}
