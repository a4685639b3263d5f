//! Patterns for names: `*` stands for any number of characters, `/` among them, `?` for exactly one.
//! There is no escape character.

use std::fmt;

/// A pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Glob {
    text: String,
    tokens: Vec<Token>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token {
    /// `*`.
    Run,
    /// `?`.
    One,
    Char(char),
}

impl Glob {
    pub(crate) fn new(text: &str) -> Self {
        let token = |c| match c {
            '*' => Token::Run,
            '?' => Token::One,
            c => Token::Char(c),
        };
        Self { text: text.to_owned(), tokens: text.chars().map(token).collect() }
    }

    pub(crate) fn matches(&self, name: &str) -> bool {
        covers(&self.tokens, &name.chars().map(Token::Char).collect::<Vec<_>>())
    }

    /// Whether it certainly matches all that `other` matches. `false` may also mean that this was not
    /// seen.
    pub(super) fn covers(&self, other: &Self) -> bool {
        covers(&self.tokens, &other.tokens)
    }

    /// Whether there is a name that both match.
    pub(super) fn overlaps(&self, other: &Self) -> bool {
        // The row of the first `n` tokens of ours has, for each number of tokens of theirs, whether
        // these beginnings have a name in common.
        let mut row = vec![true];
        row.extend(other.tokens.iter().scan(true, |runs, theirs| {
            *runs &= *theirs == Token::Run;
            Some(*runs)
        }));
        for ours in &self.tokens {
            let mut next = vec![row[0] && *ours == Token::Run];
            for (at, theirs) in other.tokens.iter().enumerate() {
                next.push(match (ours, theirs) {
                    (Token::Run, _) | (_, Token::Run) => row[at + 1] || next[at],
                    (Token::Char(ours), Token::Char(theirs)) => row[at] && ours == theirs,
                    (Token::One, _) | (_, Token::One) => row[at],
                });
            }
            row = next;
        }
        row.last() == Some(&true)
    }
}

/// Whether `general` matches `special`, whose own wildcards count as characters that only an equal or
/// wider wildcard takes.
fn covers(general: &[Token], special: &[Token]) -> bool {
    let takes = |general: Token, special: Token| match (general, special) {
        (Token::Run, _) | (Token::One, Token::One | Token::Char(_)) => true,
        (Token::Char(general), Token::Char(special)) => general == special,
        (Token::One | Token::Char(_), _) => false,
    };
    // For each number of tokens, whether the beginning of `general` matches as many of `special`.
    let mut reached = vec![false; special.len() + 1];
    reached[0] = true;
    for token in general {
        if *token == Token::Run {
            let first = reached.iter().position(|reached| *reached).unwrap_or(reached.len());
            reached[first..].fill(true);
        } else {
            for at in (0..special.len()).rev() {
                reached[at + 1] = reached[at] && takes(*token, special[at]);
            }
            reached[0] = false;
        }
    }
    reached.last() == Some(&true)
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_match_or_not() {
        for (glob, good, bad) in [
            ("PUA.*", &["PUA.", "PUA.Win.X"][..], &["", "PUA", "xPUA.", "pua.x"][..]),
            ("*", &["", "a", "a/b"], &[]),
            ("*.exe", &[".exe", "a/b.exe", "a.exe.exe"], &["a.exe ", "a.exex"]),
            ("a?c", &["abc", "a/c", "a?c", "aéc"], &["ac", "abbc"]),
            ("a*b*c", &["abc", "a/b/c", "abbcc"], &["ab", "acb", "xabc"]),
            ("?*?", &["ab", "abc"], &["a", ""]),
            ("[ab]", &["[ab]"], &["a"]),
            (r"\*", &[r"\", r"\x"], &["*"]),
        ] {
            let pattern = Glob::new(glob);
            for name in good {
                assert!(pattern.matches(name), "{glob} does not match {name}");
            }
            for name in bad {
                assert!(!pattern.matches(name), "{glob} matches {name}");
            }
        }
    }

    #[test]
    fn globs_overlap_or_not() {
        for (one, other, expected) in [
            ("a*", "*b", true),
            ("a*", "b*", false),
            ("*.exe", "uploads/*", true),
            ("a", "a", true),
            ("a", "?", true),
            ("?", "??", false),
            ("*", "**", true),
            ("a*c", "ab", false),
            ("*a*", "*b*", true),
            ("a?c*", "*d?f", true),
            ("ab*", "a?", true),
        ] {
            let (one, other) = (Glob::new(one), Glob::new(other));
            assert_eq!(one.overlaps(&other), expected, "{one} and {other}");
            assert_eq!(other.overlaps(&one), expected, "{other} and {one}");
        }
    }

    #[test]
    fn what_covers_what() {
        for (general, special) in
            [("*", "a*b"), ("**", "*"), ("a*", "ab*c"), ("?", "a"), ("a?*", "ab*"), ("a", "a")]
        {
            assert!(Glob::new(general).covers(&Glob::new(special)), "{general} over {special}");
        }
        for (general, special) in [("a*", "*"), ("?", "*"), ("a", "?"), ("*b", "a*"), ("?", "??")] {
            assert!(!Glob::new(general).covers(&Glob::new(special)), "{general} over {special}");
        }
    }

    /// All names of up to five characters of a small alphabet.
    fn names() -> Vec<String> {
        let mut all = vec![String::new()];
        let mut from = 0;
        for _ in 0..5 {
            let longer =
                all[from..].iter().flat_map(|name| ["a", "b"].map(|c| format!("{name}{c}")));
            let longer: Vec<String> = longer.collect();
            from = all.len();
            all.extend(longer);
        }
        all
    }

    proptest! {
        /// Compared by all short names: two globs that have a name in common have one that is no
        /// longer than both together.
        #[test]
        fn overlap_and_cover_are_what_the_names_say(one in "[ab?*]{0,3}", other in "[ab?*]{0,2}") {
            let (left, right) = (Glob::new(&one), Glob::new(&other));
            let names = names();
            let both = names.iter().any(|name| left.matches(name) && right.matches(name));
            prop_assert_eq!(left.overlaps(&right), both);
            if left.covers(&right) {
                for name in names.iter().filter(|name| right.matches(name)) {
                    prop_assert!(left.matches(name), "{} covers {}, without {}", one, other, name);
                }
            }
        }

        /// Matching is what the definition says, read from left to right.
        #[test]
        fn matching_is_what_the_definition_says(glob in "[ab?*]{0,6}", name in "[ab/]{0,6}") {
            fn defined(glob: &[char], name: &[char]) -> bool {
                match (glob, name) {
                    ([], []) => true,
                    (['*', rest @ ..], _) => {
                        (0..=name.len()).any(|taken| defined(rest, &name[taken..]))
                    }
                    (['?', glob @ ..], [_, name @ ..]) => defined(glob, name),
                    ([first, glob @ ..], [c, name @ ..]) => first == c && defined(glob, name),
                    _ => false,
                }
            }
            let chars = |text: &str| text.chars().collect::<Vec<_>>();
            prop_assert_eq!(Glob::new(&glob).matches(&name), defined(&chars(&glob), &chars(&name)));
        }
    }
}
