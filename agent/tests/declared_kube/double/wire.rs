//! HTTP as far as it is needed.

use std::io::{BufRead as _, BufReader};

use serde_json::json;

use super::Stream;

/// Target and `Authorization` of the next request.
pub(super) fn request(stream: &mut BufReader<Box<dyn Stream>>) -> Option<(String, Option<String>)> {
    let mut text = String::new();
    stream.read_line(&mut text).ok().filter(|read| *read > 0)?;
    let target = text.split(' ').nth(1)?.to_owned();
    let mut token = None;
    loop {
        let mut header = String::new();
        stream
            .read_line(&mut header)
            .ok()
            .filter(|read| *read > 0)?;
        match header.trim().split_once(':') {
            None => return Some((target, token)),
            Some((name, value)) if name.eq_ignore_ascii_case("authorization") => {
                token = Some(value.trim().to_owned());
            }
            Some(_) => {}
        }
    }
}

pub(super) fn head(code: u16, length: usize) -> String {
    format!(
        "HTTP/1.1 {code} X\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
    )
}

pub(super) fn respond(stream: &mut dyn Stream, code: u16, body: &str) -> Option<()> {
    stream.write_all(head(code, body.len()).as_bytes()).ok()?;
    stream.write_all(body.as_bytes()).ok()?;
    stream.flush().ok()
}

pub(super) fn refuse(stream: &mut dyn Stream, code: u16) -> Option<()> {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": "R", "message": "not you", "metadata": {}});
    respond(stream, code, &status.to_string())
}

pub(super) fn chunk(stream: &mut dyn Stream, text: &str) -> Option<()> {
    stream
        .write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())
        .ok()?;
    stream.flush().ok()
}
