//! One HTTP request to a server on loopback: all that reading back from a receiver needs.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

/// How long a local server may take to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Body of the answer to `GET <path>`.
///
/// # Errors
/// When nobody answers, or with another status than 200 or 204.
pub(crate) fn get(server: SocketAddr, path: &str) -> Result<String> {
    let ask = || -> Result<Vec<u8>> {
        let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // HTTP/1.0: the answer is not chunked and ends with the connection.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: {server}\r\n\r\n")?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer)?;
        Ok(answer)
    };
    let answer = ask().with_context(|| format!("GET http://{server}{path}"))?;
    let answer = String::from_utf8(answer)
        .with_context(|| format!("http://{server}{path} answers no UTF-8"))?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .with_context(|| format!("http://{server}{path} answers no HTTP"))?;
    match head.split(' ').nth(1) {
        Some("200" | "204") => Ok(body.to_owned()),
        _ => bail!(
            "GET http://{server}{path}: {} {body}",
            head.lines().next().unwrap_or_default()
        ),
    }
}

/// Text as the value of a query parameter.
pub(crate) fn query_value(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::query_value;

    #[test]
    fn query_values() {
        assert_eq!(query_value("up{a=\"b c\"}"), "up%7Ba%3D%22b%20c%22%7D");
        assert_eq!(query_value("a-b_c.d~9"), "a-b_c.d~9");
    }
}
