//! Which bytes of a tarball are fetched when some of its members are here already. Pure: nothing is read here.

use std::ops::Range;

use crate::model::Member;

/// So few bytes between two that are fetched come with them: another request costs more (32 KiB).
const SHORT: u64 = 32 * 1024;

/// More ranges than these are not worth their requests.
const MAX_RANGES: usize = 512;

/// The ranges that are fetched, in their order and apart. All else is copied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Recipe(Vec<Range<u64>>);

impl Recipe {
    /// `has` says which members are here. `None` where that is not worth anything.
    pub(super) fn new(members: &[Member], has: impl Fn(&Member) -> bool) -> Option<Self> {
        let mut gaps: Vec<Range<u64>> = Vec::new();
        for member in members.iter().filter(|member| !has(member)) {
            match gaps.last_mut() {
                Some(last) if member.offset - last.end < SHORT => last.end = member.end(),
                _ => gaps.push(member.offset..member.end()),
            }
        }
        let recipe = Self(gaps);
        let size = members.last().map_or(0, Member::end);
        (recipe.0.len() <= MAX_RANGES && size - recipe.transfer(0) >= SHORT).then_some(recipe)
    }

    /// How many bytes are fetched when those before `from` are here.
    pub(super) fn transfer(&self, from: u64) -> u64 {
        self.0.iter().map(|gap| gap.end.saturating_sub(gap.start.max(from))).sum()
    }

    /// Where the range ends that this byte lies in; `None` for a byte that is copied.
    pub(super) fn fetched_upto(&self, at: u64) -> Option<u64> {
        let next = self.0.get(self.0.partition_point(|gap| gap.end <= at))?;
        next.contains(&at).then_some(next.end)
    }

    #[cfg(any(test, fuzzing))]
    pub(super) fn ranges(&self) -> &[Range<u64>] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::model::Sha256Digest;

    /// Members of these lengths; those with an even digest are here.
    fn members(lengths: &[(u8, u64)]) -> Vec<Member> {
        let mut end = 0;
        let mut member = |(digest, length): &(u8, u64)| {
            let offset = end;
            end += length;
            Member { sha256: Sha256Digest::from_bytes([*digest; 32]), offset, length: *length }
        };
        lengths.iter().map(&mut member).collect()
    }

    fn is_here(member: &Member) -> bool {
        member.sha256.as_bytes()[0].is_multiple_of(2)
    }

    #[test]
    fn neighbours_and_what_is_close_come_in_one_range() {
        let members = members(&[(0, SHORT), (1, 10), (1, 20), (0, 5), (1, 7), (0, SHORT), (1, 9)]);
        let recipe = Recipe::new(&members, is_here).unwrap();
        assert_eq!(recipe.ranges(), [SHORT..SHORT + 42, 2 * SHORT + 42..2 * SHORT + 51]);
        assert_eq!((recipe.transfer(0), recipe.transfer(SHORT + 40), recipe.transfer(u64::MAX)), (51, 11, 0));
        assert_eq!(recipe.fetched_upto(0), None);
        assert_eq!(recipe.fetched_upto(SHORT), Some(SHORT + 42));
        assert_eq!(recipe.fetched_upto(SHORT + 42), None);
        assert_eq!(recipe.fetched_upto(2 * SHORT + 51), None);
    }

    #[test]
    fn what_saves_nothing_is_no_recipe() {
        assert_eq!(Recipe::new(&members(&[(1, 100_000)]), is_here), None);
        assert_eq!(Recipe::new(&members(&[(0, SHORT - 1), (1, 100_000)]), is_here), None);
        assert_eq!(Recipe::new(&[], is_here), None);
        let apart: Vec<_> = (0..2 * MAX_RANGES + 2).map(|at| ((at % 2) as u8, SHORT)).collect();
        assert!(Recipe::new(&members(&apart[..2 * MAX_RANGES]), is_here).is_some());
        assert_eq!(Recipe::new(&members(&apart), is_here), None);
    }

    proptest! {
        /// What is copied and what is fetched is the whole, whatever is here, from wherever one goes on.
        #[test]
        fn any_tarball_is_put_together(
            lengths in prop::collection::vec((0..6u8, prop_oneof![1..100u64, 1..100_000u64]), 0..30),
            from in any::<prop::sample::Index>(),
        ) {
            let members = members(&lengths);
            let size = members.last().map_or(0, Member::end);
            let Some(recipe) = Recipe::new(&members, is_here) else { return Ok(()) };
            let begin = from.index(usize::try_from(size).unwrap()) as u64;
            let (mut at, mut fetched) = (begin, 0);
            while at < size {
                let next = match recipe.fetched_upto(at) {
                    Some(end) => {
                        fetched += end - at;
                        end
                    }
                    None => {
                        let member = &members[members.partition_point(|member| member.end() <= at)];
                        prop_assert!(is_here(member), "{member:?} is nowhere");
                        member.end()
                    }
                };
                prop_assert!(next > at);
                at = next;
            }
            prop_assert_eq!(at, size);
            prop_assert_eq!(fetched, recipe.transfer(begin));
        }
    }
}
