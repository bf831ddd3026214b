//! Ids that are made up and quantities that are read.

use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::wait::monotonic_ns;

/// Thousandths of a CPU of a quantity such as `250m`, `2` or `0.5`.
pub(super) fn millis(quantity: &str) -> Result<u64> {
    if let Some(millis) = quantity.strip_suffix('m') {
        return millis
            .parse()
            .with_context(|| format!("quantity {quantity}"));
    }
    let (whole, fraction) = quantity.split_once('.').unwrap_or((quantity, ""));
    let digits = format!("{fraction:0<3}");
    let whole: u64 = whole
        .parse()
        .with_context(|| format!("quantity {quantity}"))?;
    let part: u64 = digits
        .get(..3)
        .unwrap_or_default()
        .parse()
        .with_context(|| format!("quantity {quantity}"))?;
    Ok(whole * 1_000 + part)
}

/// Hex digits that no other call gives, in this process or another.
pub(super) fn made_up_hex(name: &str, digits: usize) -> String {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    let mut state = monotonic_ns() ^ (u64::from(std::process::id()) << 32) ^ u64::from(serial);
    let mut text = String::new();
    for byte in name.bytes() {
        state = mixed(state ^ u64::from(byte));
    }
    while text.len() < digits {
        state = mixed(state);
        text.push_str(&format!("{state:016x}"));
    }
    text.truncate(digits);
    text
}

/// The step of splitmix64 (Sebastiano Vigna, public domain).
pub(crate) fn mixed(state: u64) -> u64 {
    let mut z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub(super) fn made_up_uid(name: &str) -> String {
    let hex = made_up_hex(name, 32);
    let parts = [(0, 8), (8, 12), (12, 16), (16, 20), (20, 32)]
        .map(|(from, to)| hex.get(from..to).unwrap_or_default());
    parts.join("-")
}

#[cfg(test)]
mod tests {
    use super::{made_up_hex, made_up_uid, millis};

    #[test]
    fn quantities_of_cpu() {
        for (text, expected) in [
            ("250m", 250),
            ("2", 2_000),
            ("0.5", 500),
            ("1.25", 1_250),
            ("0.0001", 0),
        ] {
            assert_eq!(millis(text).unwrap(), expected, "{text}");
        }
        assert!(millis("x").is_err());
    }

    #[test]
    fn ids_have_their_shape_and_differ() {
        assert_eq!(made_up_hex("a", 64).len(), 64);
        assert_ne!(made_up_hex("a", 64), made_up_hex("a", 64));
        let lengths: Vec<usize> = made_up_uid("a").split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
    }
}
