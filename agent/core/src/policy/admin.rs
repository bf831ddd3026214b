//! Admin policies: ordered tiers before and after the NetworkPolicies.

use super::judge::{Side, SideVerdict, matches};
use super::{Direction, End, Endpoint, Flow, Match, Policies, PolicyRef, RuleRef, Verdict};
use crate::declared::AdminAction;

/// What may come of a tier: one of several, where it is not known which rules match.
#[derive(Clone, Copy, Default)]
struct Outcomes {
    allow: bool,
    deny: bool,
    /// Left to what comes after.
    next: bool,
}

impl Outcomes {
    fn add(&mut self, action: AdminAction) {
        match action {
            AdminAction::Allow => self.allow = true,
            AdminAction::Deny => self.deny = true,
            AdminAction::Pass => self.next = true,
        }
    }
}

/// How far the rules of one tier decide.
#[derive(Default)]
struct Tier {
    outcomes: Outcomes,
    rules: Vec<RuleRef>,
    /// A rule has surely matched.
    decided: bool,
}

impl Policies {
    /// By all tiers that are about the pod.
    pub(super) fn by_admin(
        &self,
        pod: &Endpoint,
        other: &End<'_>,
        flow: &Flow<'_>,
        direction: Direction,
    ) -> Side {
        let first = self.tier(pod, other, flow, direction, false);
        let mut side = Side {
            rules: first.rules,
            ..Side::default()
        };
        let mut outcomes = first.outcomes;
        let mut open = false;
        let mut none = false;
        if outcomes.next || !first.decided {
            let middle = self.by_network(pod, other, flow, direction);
            outcomes.next = false;
            side.rules.extend(middle.rules);
            match middle.verdict {
                Verdict::Allow => outcomes.allow = true,
                Verdict::Deny => outcomes.deny = true,
                Verdict::Unknown => open = true,
                Verdict::None => {
                    let last = self.tier(pod, other, flow, direction, true);
                    outcomes.allow |= last.outcomes.allow;
                    outcomes.deny |= last.outcomes.deny;
                    side.rules.extend(last.rules);
                    none = !last.decided;
                }
            }
        }
        let (verdict, why) = match (outcomes.allow, outcomes.deny, none) {
            _ if open => (Verdict::Unknown, SideVerdict::MayMatch),
            (true, false, false) => (Verdict::Allow, SideVerdict::Matched),
            (false, true, false) if side.rules.is_empty() => {
                (Verdict::Deny, SideVerdict::NoneMatches)
            }
            (false, true, false) => (Verdict::Deny, SideVerdict::Matched),
            (false, false, _) => (Verdict::None, SideVerdict::NotSelected),
            // It passes either way, and whether anybody decided so is not known.
            (true, true, _) | (true, _, true) | (_, true, true) => {
                (Verdict::Unknown, SideVerdict::MayMatch)
            }
        };
        Side {
            verdict,
            why,
            ..side
        }
    }

    /// The admin policies, or the baseline.
    fn tier(
        &self,
        pod: &Endpoint,
        other: &End<'_>,
        flow: &Flow<'_>,
        direction: Direction,
        baseline: bool,
    ) -> Tier {
        let mut tier = Tier::default();
        let of_tier =
            |(index, _): &&(u32, bool)| self.admin[*index as usize].priority.is_none() == baseline;
        let mut selecting = pod.admin.iter().filter(of_tier).peekable();
        while let Some((index, surely)) = selecting.next() {
            let priority = self.admin[*index as usize].priority;
            let mut decided = self.rules_of(*index, *surely, other, flow, direction, &mut tier);
            // Which of equal priority goes first is not defined: each is heard.
            while let Some((index, surely)) =
                selecting.next_if(|(next, _)| self.admin[*next as usize].priority == priority)
            {
                decided |= self.rules_of(*index, *surely, other, flow, direction, &mut tier);
            }
            if decided {
                tier.decided = true;
                return tier;
            }
        }
        tier.outcomes.next = true;
        tier
    }

    /// Hears the rules of one policy until one surely matches.
    fn rules_of(
        &self,
        index: u32,
        surely: bool,
        other: &End<'_>,
        flow: &Flow<'_>,
        direction: Direction,
        tier: &mut Tier,
    ) -> bool {
        let rules = self.admin[index as usize].rules(direction);
        for (place, (action, rule)) in (0..).zip(rules) {
            match matches(rule, other, flow) {
                Match::No => {}
                Match::Maybe => tier.outcomes.add(*action),
                Match::Yes => {
                    tier.outcomes.add(*action);
                    tier.rules.push(RuleRef {
                        policy: PolicyRef::Admin(index),
                        direction,
                        index: place,
                    });
                    return surely;
                }
            }
        }
        false
    }
}
