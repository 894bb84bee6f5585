//! "Did you mean": the nearest of some words.

/// The word nearest to `found`, if it is near enough to be a slip: a third of its letters at most.
pub(super) fn nearest<'a>(found: &str, words: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let found = found.to_lowercase();
    if found.chars().count() > 64 {
        return None;
    }
    let (distance, word) = words.into_iter().map(|word| (distance(&found, &word.to_lowercase()), word)).min()?;
    let longest = word.chars().count().max(found.chars().count());
    (distance <= longest.div_ceil(3)).then(|| word.to_owned())
}

/// Letters to insert, remove, replace, or swap with a neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows: Vec<Vec<usize>> = vec![(0..=b.len()).collect()];
    for (i, ca) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, cb) in b.iter().enumerate() {
            let replace = rows[i][j] + usize::from(ca != cb);
            let mut best = replace.min(rows[i][j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *ca == b[j - 1] && a[i - 1] == *cb {
                best = best.min(rows[i - 1][j - 1] + 1);
            }
            row.push(best);
        }
        rows.push(row);
    }
    rows[a.len()][b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_recognised_and_strangers_are_not() {
        let words = ["included", "overage", "monthly"];
        assert_eq!(nearest("inclueded", words).as_deref(), Some("included"));
        assert_eq!(nearest("Overage", words).as_deref(), Some("overage"));
        assert_eq!(nearest("montlhy", words).as_deref(), Some("monthly"));
        assert_eq!(nearest("zebra", words), None);
        assert_eq!(nearest("x", []), None);
    }

    #[test]
    fn a_swap_counts_once() {
        assert_eq!(distance("ab", "ba"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
