//! "Did you mean …?"

use core::fmt;

/// The known word nearest to a mistyped one, if any is near. Prints as ` (did you mean X?)`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct DidYouMean(Option<String>);

impl DidYouMean {
    /// Looks for `word` among `known`, ignoring case.
    pub(super) fn among(word: &str, known: impl IntoIterator<Item = &'static str>) -> Self {
        // A text far longer than any word is no typing mistake; comparing it would be slow.
        if word.len() > 64 {
            return Self(None);
        }
        let allowed = (word.chars().count() / 3).clamp(1, 3);
        let word = plain(word);
        Self(
            known
                .into_iter()
                .map(|candidate| (distance(&word, &plain(candidate)), candidate))
                .filter(|(distance, _)| *distance <= allowed)
                .min_by_key(|(distance, _)| *distance)
                .map(|(_, candidate)| candidate.to_owned()),
        )
    }
}

impl fmt::Display for DidYouMean {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(word) => write!(f, " (did you mean {word}?)"),
            None => Ok(()),
        }
    }
}

/// `ListenPort`, `listen-port` and `listen_port` are one word to a reader.
fn plain(word: &str) -> Vec<char> {
    word.chars()
        .filter(|c| !matches!(c, '_' | '-'))
        .map(|c| c.to_ascii_lowercase())
        .collect()
}

/// Insertions, deletions and replacements that lead from one word to the other (Levenshtein).
fn distance(from: &[char], to: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.iter().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        for (b, cell) in to.iter().zip(row.iter_mut().skip(1)) {
            let best = (diagonal + usize::from(a != b))
                .min(left + 1)
                .min(*cell + 1);
            diagonal = *cell;
            *cell = best;
            left = best;
        }
        if let Some(first) = row.first_mut() {
            *first = i + 1;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(a: &str, b: &str) -> usize {
        distance(&plain(a), &plain(b))
    }

    #[test]
    fn distances() {
        assert_eq!(of("", ""), 0);
        assert_eq!(of("abc", ""), 3);
        assert_eq!(of("", "abc"), 3);
        assert_eq!(of("kitten", "sitting"), 3);
        assert_eq!(of("mtu", "MTU"), 0);
        assert_eq!(of("listen-port", "ListenPort"), 0);
        assert_eq!(of("flaw", "lawn"), 2);
    }

    #[test]
    fn the_nearest_word_within_reach() {
        let known = ["private_key", "private_key_file", "mtu"];
        let said = |word| DidYouMean::among(word, known).to_string();
        assert_eq!(said("privat_key"), " (did you mean private_key?)");
        assert_eq!(said("PrivateKeyFil"), " (did you mean private_key_file?)");
        assert_eq!(
            said("mut"),
            "",
            "two edits in three letters are another word"
        );
        assert_eq!(said("mtuu"), " (did you mean mtu?)");
        assert_eq!(said("zebra"), "");
        assert_eq!(said(&"x".repeat(100_000)), "");
    }
}
