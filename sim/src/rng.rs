use std::ops::Range;

/// The one source of chance in a run: splitmix64 (Steele, Lea and Flood 2014). Small, fast, the same on every machine.
#[derive(Debug, Clone)]
pub(crate) struct Rng {
    state: u64,
}

impl Rng {
    /// A generator whose whole sequence follows from `seed`.
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbouring seeds are spread first, or their first draws would be alike.
        Self { state: mix(seed ^ 0x5851_F42D_4C95_7F2D) }
    }

    /// The next 64 bits.
    pub(crate) fn bits(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        mix(self.state)
    }

    /// A number from `range`, which is not empty.
    pub(crate) fn within(&mut self, range: Range<u64>) -> u64 {
        assert!(range.start < range.end, "an empty range {range:?}");
        range.start + self.bits() % (range.end - range.start)
    }

    /// An index below `count`.
    pub(crate) fn index(&mut self, count: usize) -> usize {
        let index = self.within(0..count as u64);
        usize::try_from(index).unwrap_or(0)
    }

    /// True once in `1 / probability` times; `per_mille` of 1000.
    pub(crate) fn chance(&mut self, per_mille: u64) -> bool {
        self.within(0..1000) < per_mille
    }

    /// One of `items`, which is not empty.
    pub(crate) fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.index(items.len())]
    }

    /// A number from `range` whose logarithm is uniform: small ones as often as large ones.
    pub(crate) fn log_within(&mut self, range: Range<u64>) -> u64 {
        let span = (range.end / range.start.max(1)).max(2);
        let doublings = u64::from(span.ilog2());
        let low = range.start << self.within(0..doublings.max(1));
        self.within(low..(low * 2).clamp(low + 1, range.end.max(low + 1)))
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sequence_follows_from_the_seed_and_stays_in_range() {
        let draw = |seed| {
            let mut rng = Rng::new(seed);
            (0..50).map(|_| rng.log_within(10..10_000)).collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
        assert!(draw(7).iter().all(|number| (10..10_000).contains(number)));
    }
}
