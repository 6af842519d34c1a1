//! Stop strings: text is held back while it may be the beginning of one.

/// Watches one request's text.
#[derive(Debug)]
pub struct StopMatcher {
    stops: Vec<String>,
    /// Text that has not been let go.
    held: String,
}

impl StopMatcher {
    /// Watches for any of `stops`, none of them empty.
    pub fn new(stops: Vec<String>) -> StopMatcher {
        StopMatcher { stops, held: String::new() }
    }

    /// Takes in `text` and appends to `out` what cannot be part of a stop string any more. Returns which one is complete,
    /// if one is: then `out` ends before the first of them, and what follows is dropped. Text that comes while the matcher
    /// is not `armed` is let go unseen.
    pub fn push(&mut self, text: &str, armed: bool, out: &mut String) -> Option<usize> {
        if self.stops.is_empty() || !armed {
            out.push_str(text);
            return None;
        }
        self.held.push_str(text);
        let found = self.stops.iter().enumerate().filter_map(|(i, s)| Some((self.held.find(s.as_str())?, i)));
        if let Some((start, stop)) = found.min() {
            out.push_str(&self.held[..start]);
            self.held.clear();
            return Some(stop);
        }
        let keep = self.stops.iter().map(|s| overlap(&self.held, s)).max().unwrap_or(0);
        out.extend(self.held.drain(..self.held.len() - keep));
        None
    }

    /// Lets go of what is held, at the end of a text.
    pub fn finish(&mut self, out: &mut String) {
        out.push_str(&self.held);
        self.held.clear();
    }
}

/// Bytes of the longest proper prefix of `stop` that `text` ends with.
fn overlap(text: &str, stop: &str) -> usize {
    let most = (stop.len() - 1).min(text.len());
    (1..=most).rev().find(|n| stop.is_char_boundary(*n) && text.ends_with(&stop[..*n])).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Text and end of a stream of pieces.
    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let mut matcher = StopMatcher::new(stops.iter().map(|s| s.to_string()).collect());
        let mut out = String::new();
        for piece in pieces {
            if matcher.push(piece, true, &mut out).is_some() {
                return (out, true);
            }
        }
        matcher.finish(&mut out);
        (out, false)
    }

    #[test]
    fn stops_wherever_the_pieces_break() {
        let text = "one, two; three";
        for a in 0..text.len() {
            for b in a..text.len() {
                let pieces = [&text[..a], &text[a..b], &text[b..]];
                assert_eq!(run(&["; th"], &pieces), ("one, two".to_owned(), true));
                assert_eq!(run(&["; tx", "zz"], &pieces), (text.to_owned(), false));
            }
        }
    }

    #[test]
    fn the_first_of_several_wins_and_characters_stay_whole() {
        assert_eq!(run(&["c", "bc"], &["abcd"]), ("a".to_owned(), true));
        assert_eq!(run(&["éx"], &["aé", "y"]), ("aéy".to_owned(), false));
        assert_eq!(run(&["aab"], &["a", "a", "a", "b"]), ("a".to_owned(), true));
        assert_eq!(run(&[], &["a", "b"]), ("ab".to_owned(), false));
    }

    #[test]
    fn says_which_and_sees_nothing_while_it_is_not_armed() {
        let mut matcher = StopMatcher::new(vec!["b".to_owned(), "a".to_owned()]);
        let mut out = String::new();
        assert_eq!(matcher.push("ab", false, &mut out), None);
        assert_eq!(matcher.push("xab", true, &mut out), Some(1));
        assert_eq!(out, "abx");
    }

    #[test]
    fn what_cannot_match_is_let_go_at_once() {
        let mut matcher = StopMatcher::new(vec!["stop".to_owned()]);
        let mut out = String::new();
        assert_eq!(matcher.push("go s", true, &mut out), None);
        assert_eq!(out, "go ");
        assert_eq!(matcher.push("un", true, &mut out), None);
        assert_eq!(out, "go sun");
    }
}
