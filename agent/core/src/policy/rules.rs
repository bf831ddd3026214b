//! Sets of rules by their numbers, so that a verdict asks 64 rules at once.
//!
//! All rules of NetworkPolicies for one direction are numbered, those of a namespace in a row. What a port, a peer or a
//! selector says is a set of such numbers, made once per state of the policies; a verdict is where three of them meet.

use super::Direction;

/// Words that one [`Window`] looks at: 1,024 rules.
const WINDOW_WORDS: usize = 16;

/// One of something for each direction.
#[derive(Clone, Debug, Default)]
pub(super) struct Both<T> {
    pub(super) ingress: T,
    pub(super) egress: T,
}

impl<T> Both<T> {
    pub(super) fn of(&self, direction: Direction) -> &T {
        match direction {
            Direction::Ingress => &self.ingress,
            Direction::Egress => &self.egress,
        }
    }

    pub(super) fn of_mut(&mut self, direction: Direction) -> &mut T {
        match direction {
            Direction::Ingress => &mut self.ingress,
            Direction::Egress => &mut self.egress,
        }
    }
}

/// A set of rules: the number of a word and its 64 bits, sorted, without empty words. Takes 16 bytes for each word, so at most
/// 16 bytes for each of its rules and a quarter of a byte for each rule there is.
#[derive(Clone, Debug, Default)]
pub(super) struct Rules(Vec<(u32, u64)>);

impl Rules {
    pub(super) fn insert(&mut self, rule: u32) {
        self.add(rule / 64, 1 << (rule % 64));
    }

    fn add(&mut self, word: u32, bits: u64) {
        // Rules are met in the order of their numbers, nearly always.
        match self.0.last_mut() {
            Some((last, known)) if *last == word => *known |= bits,
            Some((last, _)) if *last > word => {
                match self.0.binary_search_by_key(&word, |(word, _)| *word) {
                    Ok(place) => self.0[place].1 |= bits,
                    Err(place) => self.0.insert(place, (word, bits)),
                }
            }
            Some(_) | None => self.0.push((word, bits)),
        }
    }

    pub(super) fn extend(&mut self, other: &Self) {
        for (word, bits) in &other.0 {
            self.add(*word, *bits);
        }
    }

    pub(super) fn words(&self) -> &[(u32, u64)] {
        &self.0
    }

    /// Gives back memory for words that did not come.
    pub(super) fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }

    /// Memory besides the set itself, in bytes.
    pub(super) fn heap_bytes(&self) -> usize {
        self.0.capacity() * size_of::<(u32, u64)>()
    }
}

/// What is known of the rules of some words in a row: which of them match, and which may. Lives on the stack.
pub(super) struct Window {
    first: u32,
    yes: [u64; WINDOW_WORDS],
    may: [u64; WINDOW_WORDS],
}

impl Window {
    /// From this word on.
    pub(super) fn at(first: u32) -> Self {
        Self {
            first,
            yes: [0; WINDOW_WORDS],
            may: [0; WINDOW_WORDS],
        }
    }

    /// These match.
    pub(super) fn surely(&mut self, rules: &Rules) {
        for (place, bits) in Self::places(self.first, rules) {
            self.yes[place] |= bits;
        }
    }

    /// These of one word match.
    pub(super) fn surely_word(&mut self, word: u32, bits: u64) {
        if let Some(place) = self.place(word) {
            self.yes[place] |= bits;
        }
    }

    /// These may match.
    pub(super) fn perhaps(&mut self, rules: &Rules) {
        for (place, bits) in Self::places(self.first, rules) {
            self.may[place] |= bits;
        }
    }

    /// Any may match.
    pub(super) fn all_perhaps(&mut self) {
        self.may = [u64::MAX; WINDOW_WORDS];
    }

    /// Rules of a word that match, and those that match or may.
    fn word(&self, word: u32) -> (u64, u64) {
        match self.place(word) {
            Some(place) => (self.yes[place], self.yes[place] | self.may[place]),
            None => (0, 0),
        }
    }

    fn place(&self, word: u32) -> Option<usize> {
        let place = usize::try_from(word.checked_sub(self.first)?).ok()?;
        (place < WINDOW_WORDS).then_some(place)
    }

    /// The words of a set that lie in a window, by their places there.
    fn places(first: u32, rules: &Rules) -> impl Iterator<Item = (usize, u64)> {
        let words = rules.words();
        let begin = match words.first() {
            Some((word, _)) if *word < first => words.partition_point(|(word, _)| *word < first),
            Some(_) | None => 0,
        };
        words[begin..].iter().map_while(move |(word, bits)| {
            let place = usize::try_from(word - first).ok()?;
            (place < WINDOW_WORDS).then_some((place, *bits))
        })
    }
}

/// The rules of a set where two conditions meet, window by window: `fill` says of each what is known.
pub(super) struct Meeting<'a> {
    selected: &'a [(u32, u64)],
}

/// Rules of one word that match, and those that match or may.
pub(super) struct Met {
    pub(super) word: u32,
    pub(super) yes: u64,
    pub(super) possible: u64,
}

impl<'a> Meeting<'a> {
    pub(super) fn of(selected: &'a Rules) -> Self {
        Self {
            selected: selected.words(),
        }
    }

    /// Asks both conditions about all rules of the set, and gives what is found of each word to `found`.
    pub(super) fn each(
        mut self,
        fill: impl Fn(&mut Window, &mut Window),
        mut found: impl FnMut(Met),
    ) {
        while let Some((first, _)) = self.selected.first() {
            let (mut one, mut other) = (Window::at(*first), Window::at(*first));
            fill(&mut one, &mut other);
            let within = |(word, _): &(u32, u64)| one.place(*word).is_some();
            let count = self.selected.partition_point(within);
            let (here, after) = self.selected.split_at(count);
            for (word, selected) in here {
                let (one, other) = (one.word(*word), other.word(*word));
                found(Met {
                    word: *word,
                    yes: selected & one.0 & other.0,
                    possible: selected & one.1 & other.1,
                });
            }
            self.selected = after;
        }
    }
}

impl Met {
    /// Numbers of the rules that match.
    pub(super) fn numbers(&self) -> impl Iterator<Item = usize> {
        let first = self.word as usize * 64;
        let mut rest = self.yes;
        std::iter::from_fn(move || {
            let bit = (rest != 0).then(|| rest.trailing_zeros() as usize)?;
            rest &= rest - 1;
            Some(first + bit)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{Meeting, Rules, WINDOW_WORDS};

    /// Rules in every third word, so that a window ends within them.
    fn every_third() -> Vec<u32> {
        let steps = 3 * u32::try_from(WINDOW_WORDS).unwrap();
        (0..steps).map(|step| step * 192 + step % 64).collect()
    }

    fn set(rules: impl IntoIterator<Item = u32>) -> Rules {
        let mut set = Rules::default();
        for rule in rules {
            set.insert(rule);
        }
        set
    }

    #[test]
    fn all_windows_are_asked_and_each_rule_is_found_once() {
        let numbers = every_third();
        let selected = set(numbers.iter().copied());
        let odd = set(numbers.iter().copied().filter(|number| number % 2 == 1));
        let all = set(0..numbers.last().unwrap() + 1);
        let (mut found, mut possible) = (Vec::new(), 0);
        Meeting::of(&selected).each(
            |one, other| {
                one.surely(&all);
                other.perhaps(&all);
                other.surely(&odd);
            },
            |met| {
                found.extend(met.numbers());
                possible += met.possible.count_ones() as usize;
            },
        );
        let expected: Vec<usize> = numbers.iter().map(|number| *number as usize).collect();
        assert_eq!(possible, expected.len());
        let odd: Vec<usize> = expected
            .into_iter()
            .filter(|number| number % 2 == 1)
            .collect();
        assert_eq!(found, odd);
    }

    #[test]
    fn a_set_is_the_same_in_whatever_order_it_is_made() {
        let forward = set(every_third());
        let backward = set(every_third().into_iter().rev());
        assert_eq!(forward.words(), backward.words());
        let mut joined = set([1, 700]);
        joined.extend(&set([64, 2, 700]));
        assert_eq!(joined.words(), set([1, 2, 64, 700]).words());
    }
}
