//! The lines of `plumbline status` about configuration and state file.

use serde_json::Value;

use super::Status;
use crate::present::plain;

pub(super) fn lines(text: &mut String, status: &Status) {
    let config = &status.config;
    if let Some(file) = config["file"].as_str() {
        let (reloaded, refused) = (number(&config["reloaded"]), number(&config["refused"]));
        line(
            text,
            &format!("configuration: {file}, taken over {reloaded} times, refused {refused} times"),
        );
    }
    for problem in words(&config["problems"]) {
        line(
            text,
            &format!("configuration refused, the one before is in force: {problem}"),
        );
    }
    for warning in words(&config["warnings"]) {
        line(text, &format!("configuration: {warning}"));
    }
    for key in words(&config["restart"]) {
        line(
            text,
            &format!("configuration: {key} has changed and takes a restart"),
        );
    }
    let state = &status.state;
    if let Some(directory) = state["directory"].as_str() {
        let (restored, saved) = (number(&state["restored"]), number(&state["saved"]));
        line(
            text,
            &format!("state: {directory}, {restored} findings taken over, written {saved} times"),
        );
    }
    if let Some(trouble) = state["trouble"].as_str() {
        line(text, &format!("state: not written: {trouble}"));
    }
}

fn line(text: &mut String, line: &str) {
    text.push('\n');
    text.push_str(&plain(line));
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or_default()
}

fn words(value: &Value) -> impl Iterator<Item = &str> {
    value
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
}
