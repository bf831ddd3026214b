//! The reference of the rules, from the rules themselves: `agent/RULES.md`, and what `plumbline explain <rule>` prints.

use std::fmt::Write as _;

use crate::finding::Rule;
use crate::rules::ALL;

const HEAD: &str = "\
# Rules

Generated from `agent/core/src/rules`; do not edit. Anew: `UPDATE_EXPECT=1 cargo test -p plumbline-core reference`.

A rule says nothing about what was not measured: `plumbline status` and M001 name it. Numbers in brackets are those of the
list of false-positive traps that every rule is tested against.

| rule | title | severity |
| --- | --- | --- |
";

/// All rules in Markdown.
#[must_use]
pub fn markdown() -> String {
    let mut text = HEAD.to_owned();
    for rule in ALL {
        let id = rule.id;
        let anchor = id.to_ascii_lowercase();
        line(
            &mut text,
            &format!("| [{id}](#{anchor}) | {} | {} |", rule.title, rule.severity),
        );
    }
    for rule in ALL {
        // The heading is the id alone: its anchor is what `doc_url` says.
        line(
            &mut text,
            &format!("\n## {}\n\n**{}.**", rule.id, rule.title),
        );
        for (title, body) in parts(rule) {
            line(&mut text, &format!("\n**{title}.** {body}"));
        }
        line(&mut text, "\n**Traps.**\n");
        for trap in rule.traps {
            line(&mut text, &format!("- {trap}"));
        }
    }
    text
}

/// One rule as plain text, lines of any length.
#[must_use]
pub fn plain(rule: &Rule) -> String {
    let mut text = format!("{}: {}\n", rule.id, rule.title);
    for (title, body) in parts(rule) {
        line(&mut text, &format!("\n{title}\n  {body}"));
    }
    line(&mut text, "\nTraps");
    for trap in rule.traps {
        line(&mut text, &format!("  - {trap}"));
    }
    text
}

fn parts(rule: &Rule) -> [(&'static str, String); 5] {
    [
        ("What", rule.what.to_owned()),
        ("Why", rule.why.to_owned()),
        ("Severity", format!("{}.", capital(rule.severity))),
        ("Remedy", rule.remediation.to_owned()),
        ("Category", format!("`{}`.", rule.category)),
    ]
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or_else(String::new, |first| {
        first.to_uppercase().chain(letters).collect()
    })
}

fn line(text: &mut String, line: &str) {
    writeln!(text, "{line}").expect("a String takes all text");
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use expect_test::expect_file;

    use super::{markdown, plain};
    use crate::rules::{ALL, find};

    #[test]
    fn the_reference_is_what_the_rules_say() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../RULES.md");
        expect_file![path].assert_eq(&markdown());
    }

    #[test]
    fn every_rule_says_everything() {
        for rule in ALL {
            let id = rule.id;
            for (what, text) in [
                ("what", rule.what),
                ("why", rule.why),
                ("severity", rule.severity),
                ("remediation", rule.remediation),
            ] {
                assert!(text.len() > 2, "{id}: {what} is missing");
                assert!(
                    !text.contains('\n') && !text.contains("  "),
                    "{id}: {what}: {text:?}"
                );
            }
            for whole in [rule.what, rule.why, rule.remediation] {
                assert!(whole.ends_with('.'), "{id}: {whole:?} is no sentence");
            }
            let severity = rule.severity.split([';', ':', ',']).next().unwrap();
            assert!(
                ["info", "low", "medium", "high"].contains(&severity),
                "{id}: begin with a severity: {severity:?}"
            );
            assert!(
                !rule.traps.is_empty(),
                "{id}: name what it is not fooled by"
            );
            assert!(
                markdown().contains(&format!("\n## {id}\n")),
                "the anchor of doc_url"
            );
        }
    }

    #[test]
    fn a_rule_is_found_in_either_case_and_explained() {
        let rule = find("p001").unwrap();
        assert_eq!(rule.id, "P001");
        let text = plain(rule);
        for part in [rule.title, rule.what, rule.traps[0], rule.remediation] {
            assert!(text.contains(part), "{part}");
        }
        assert!(find("P00").is_none());
    }
}
