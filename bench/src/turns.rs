//! Contenders take turns, so that what slows the machine slows them all.

/// Has each of `contenders` run once a round, and returns what the runs gave, by contender.
///
/// One round more than asked for is run: the first one warms caches and branch predictors. Every
/// other round goes in reverse, so that nobody always follows the same one.
pub fn take_turns(
    rounds: usize,
    contenders: usize,
    mut run: impl FnMut(usize) -> f64,
) -> Vec<Vec<f64>> {
    let mut samples = vec![Vec::with_capacity(rounds); contenders];
    for round in 0..=rounds {
        for at in 0..contenders {
            let at = if round % 2 == 0 {
                at
            } else {
                contenders - 1 - at
            };
            let sample = run(at);
            if round > 0 {
                samples[at].push(sample);
            }
        }
    }
    samples
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_runs_once_a_round_and_the_first_round_does_not_count() {
        let mut order = Vec::new();
        let samples = take_turns(2, 3, |at| {
            order.push(at);
            order.len() as f64
        });
        assert_eq!(order, [0, 1, 2, 2, 1, 0, 0, 1, 2]);
        assert_eq!(samples, [[6.0, 7.0], [5.0, 8.0], [4.0, 9.0]]);
    }
}
