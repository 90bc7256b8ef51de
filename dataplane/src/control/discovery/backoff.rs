//! How long to wait before the next attempt.

use core::time::Duration;

use crate::crypto::Random;

/// Waits that grow by half with each attempt, each ±50 % at random, so that the members of a
/// cluster whose service comes back do not all come at once.
#[derive(Clone, Debug)]
pub struct Backoff {
    first: Duration,
    longest: Duration,
    next: Duration,
}

impl Backoff {
    /// The first wait is `first` on average, the longest `longest`.
    #[must_use]
    pub const fn new(first: Duration, longest: Duration) -> Self {
        Self {
            first,
            longest,
            next: first,
        }
    }

    /// How long to wait now: half to one and a half of the step.
    pub fn wait(&mut self, random: &mut dyn Random) -> Duration {
        let step = self.next;
        self.next = (step * 3 / 2).min(self.longest);
        // Without randomness: the step itself.
        let share = random.next_u32().unwrap_or(u32::MAX / 2);
        step / 2 + step.mul_f64(f64::from(share) / f64::from(u32::MAX))
    }

    /// It has worked: the next wait is short again.
    pub const fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::SeededRandom;

    #[test]
    fn waits_grow_to_the_longest_and_start_again() {
        let ms = Duration::from_millis;
        let mut random = SeededRandom::new(7);
        let mut backoff = Backoff::new(ms(500), ms(60_000));
        let mut step = 500.0;
        for _ in 0..40 {
            let wait = backoff.wait(&mut random).as_secs_f64() * 1000.0;
            assert!(
                (step * 0.499..=step * 1.501).contains(&wait),
                "{wait} of {step}"
            );
            step = f64::min(step * 1.5, 60_000.0);
        }
        backoff.reset();
        assert!((ms(250)..=ms(750)).contains(&backoff.wait(&mut random)));
    }
}
