//! A small seeded generator whose stream never changes, so that a printed seed replays in any later build.
//!
//! Algorithm: `SplitMix64` (Steele, Lea, Flood: "Fast splittable pseudorandom number generators", 2014).

use std::time::Duration;

/// A seeded generator of numbers. Not fit for secrets; the world it serves has none.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// The generator of a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `limit`, which must not be zero. The bias of the remainder is irrelevant for choices among few.
    pub fn below(&mut self, limit: usize) -> usize {
        assert!(limit > 0, "a choice needs at least one option");
        let limit = u64::try_from(limit).unwrap_or(u64::MAX);
        usize::try_from(self.draw() % limit).unwrap_or(0)
    }

    /// True in one of `n` cases.
    pub fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    /// One of the options, which must not be empty.
    pub fn pick<'a, T>(&mut self, options: &'a [T]) -> &'a T {
        &options[self.below(options.len())]
    }

    /// Whole milliseconds below the limit.
    pub fn millis(&mut self, limit: u64) -> Duration {
        Duration::from_millis(self.draw() % limit.max(1))
    }

    /// Fills a buffer.
    pub fn fill(&mut self, buffer: &mut [u8]) {
        for chunk in buffer.chunks_mut(8) {
            let bytes = self.draw().to_le_bytes();
            chunk.copy_from_slice(&bytes[..chunk.len()]);
        }
    }
}
