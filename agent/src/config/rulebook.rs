//! What the file says about rules, and what of it has no effect.

use plumbline_core::rules;
use plumbline_core::settings::SUPPRESSIONS_MAX;
use plumbline_core::suppression::Rulebook;
use plumbline_core::time::UnixNanos;

use super::{File, Problem};

/// What of the configuration is taken but has no effect: suppressions that hide nothing, and why. The agent runs with it,
/// and says so.
#[must_use]
pub fn warnings(rulebook: &Rulebook, now: UnixNanos) -> Vec<Problem> {
    let suppressions = rulebook.suppressions.iter().enumerate();
    let mut warnings: Vec<Problem> = suppressions
        .filter_map(|(index, suppression)| {
            let unknown = suppression
                .rule
                .as_ref()
                .filter(|id| rules::find(id).is_none());
            let why = match (suppression.in_force(now), unknown) {
                (Err(why), _) => why,
                (Ok(_), Some(id)) => format!("there is no rule {id}"),
                (Ok(_), None) => return None,
            };
            Some(Problem {
                at: format!("suppressions[{index}]"),
                message: format!("hides nothing: {why}"),
            })
        })
        .collect();
    for (index, grant) in rulebook.annotations.iter().enumerate() {
        for id in grant.rules.iter().filter(|id| rules::find(id).is_none()) {
            warnings.push(Problem {
                at: format!("annotations[{index}]"),
                message: format!("there is no rule {id}"),
            });
        }
    }
    warnings
}

/// Which rules judge, how severe they are, and what is hidden. Ids of rules may be written in either case.
pub(super) fn of(file: &File, problems: &mut Vec<Problem>) -> Rulebook {
    let id = |id: &str| rules::find(id).map_or_else(|| id.to_owned(), |rule| rule.id.to_owned());
    for unknown in file.rules.keys().filter(|id| rules::find(id).is_none()) {
        problems.push(Problem {
            at: format!("rules.{unknown}"),
            message: "there is no such rule; `plumbline explain` lists them".into(),
        });
    }
    if file.suppressions.len() > SUPPRESSIONS_MAX {
        problems.push(Problem {
            at: "suppressions".into(),
            message: format!("more than {SUPPRESSIONS_MAX}"),
        });
    }
    let mut suppressions = file.suppressions.clone();
    for suppression in &mut suppressions {
        suppression.rule = suppression.rule.as_deref().map(id);
    }
    let mut annotations = file.annotations.clone();
    for grant in &mut annotations {
        grant.rules = grant.rules.iter().map(|rule| id(rule)).collect();
    }
    let rules = file.rules.iter().map(|(rule, set)| (id(rule), set.clone()));
    Rulebook {
        rules: rules.collect(),
        suppressions,
        annotations,
    }
}
