//! Lists of numbers as llama-bench reads them: "512", "128,512", "1-4", "128-512+128", "1-64*2".

use std::str::FromStr;

/// One list entry expands to at most this many numbers.
const MAX_RANGE: usize = 1000;

/// Numbers in the order given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counts(pub Vec<usize>);

impl FromStr for Counts {
    type Err = String;

    fn from_str(text: &str) -> Result<Counts, String> {
        let mut all = Vec::new();
        for entry in text.split(',') {
            expand(entry, &mut all)?;
        }
        Ok(Counts(all))
    }
}

/// Appends the numbers of `first`, `first-last`, `first-last+step` or `first-last*factor`.
fn expand(entry: &str, all: &mut Vec<usize>) -> Result<(), String> {
    let Some((first, rest)) = entry.split_once('-') else {
        all.push(number(entry)?);
        return Ok(());
    };
    let (last, step, factor) = match (rest.split_once('+'), rest.split_once('*')) {
        (Some((last, step)), _) => (last, number(step)?, 1),
        (None, Some((last, factor))) => (last, 0, number(factor)?),
        (None, None) => (rest, 1, 1),
    };
    let (mut n, last) = (number(first)?, number(last)?);
    let start = all.len();
    while n <= last {
        all.push(n);
        let next = n.checked_mul(factor).and_then(|n| n.checked_add(step)).filter(|&next| next > n);
        n = next.ok_or(format!("{entry:?}: the range does not grow"))?;
        if all.len() - start > MAX_RANGE {
            return Err(format!("{entry:?}: more than {MAX_RANGE} numbers"));
        }
    }
    if all.len() == start { Err(format!("{entry:?}: an empty range")) } else { Ok(()) }
}

fn number(text: &str) -> Result<usize, String> {
    text.parse().map_err(|e| format!("{text:?}: {e}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_lists_and_ranges() {
        let cases: [(&str, &[usize]); 6] = [
            ("512", &[512]),
            ("0,128,512", &[0, 128, 512]),
            ("1-4", &[1, 2, 3, 4]),
            ("128-512+128", &[128, 256, 384, 512]),
            ("1-64*4", &[1, 4, 16, 64]),
            ("7,1-2", &[7, 1, 2]),
        ];
        for (text, numbers) in cases {
            assert_eq!(text.parse(), Ok(Counts(numbers.to_vec())), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_list() {
        for text in ["", "a", "1,,2", "-1", "5-1", "1-5+0", "1-5*1", "0-5*2", "1-9999999", "99999999999999999999"] {
            assert!(text.parse::<Counts>().is_err(), "{text}");
        }
    }
}
