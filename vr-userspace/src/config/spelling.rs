//! Which word was meant by one that is not known.

/// The known word that a word was most likely meant to be.
pub(super) fn nearest(word: &str, known: &[&str]) -> Option<usize> {
    const LONGEST: usize = 32;
    if word.len() > LONGEST {
        return None;
    }
    let letters = |text: &str| -> Vec<u8> {
        let kept = text.bytes().filter(|byte| !b"-_ ".contains(byte));
        kept.map(|byte| byte.to_ascii_lowercase()).collect()
    };
    let word = letters(word);
    let distances = known.iter().enumerate().map(|(index, name)| {
        let name = letters(name);
        (distance(&word, &name), name.len(), index)
    });
    let (distance, length, index) = distances.min()?;
    (distance <= 2 && distance * 2 < length).then_some(index)
}

/// The number of letters to insert, take away or change to make one word of the other.
fn distance(one: &[u8], other: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (i, a) in one.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in other.iter().enumerate() {
            let changed = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = changed.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[other.len()]
}
