//! CPU quantities to thousandths of a CPU.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use kube_quantity::ParsedQuantity;

/// A million CPUs. More than this is a mistake in the manifest, and telling so beats computing with it.
const CPU_MAX: f64 = 1e6;

/// Thousandths of a CPU are whole numbers plus at most this much floating point noise: a quantity has no step smaller
/// than a nano-CPU (10⁻⁶ thousandths), and below [`CPU_MAX`] an `f64` is exact to 2·10⁻⁷.
const NOISE: f64 = 5e-7;

/// Thousandths of a CPU, rounded up as Kubernetes does.
///
/// # Errors
/// Says what is wrong with the text; never silently zero.
pub(super) fn cpu_millis(quantity: &Quantity) -> Result<u64, String> {
    let text = quantity.0.as_str();
    if !begins_like_a_number(text) {
        return Err(format!("{text:?} is not a quantity: write 250m or 0.25"));
    }
    let parsed = ParsedQuantity::try_from(text)
        .map_err(|error| format!("{text:?} is not a quantity ({error}): write 250m or 0.25"))?;
    let cpus = parsed
        .to_bytes_f64()
        .ok_or_else(|| format!("{text:?} is too large"))?;
    if cpus < 0.0 {
        return Err(format!("{text:?} is negative"));
    }
    if !cpus.is_finite() || cpus > CPU_MAX {
        return Err(format!("{text:?} is more than a million CPUs"));
    }
    let millis = cpus * 1_000.0;
    let nearest = millis.round();
    let whole = if (millis - nearest).abs() <= NOISE && (nearest > 0.0 || millis == 0.0) {
        nearest
    } else {
        millis.ceil()
    };
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "0 <= whole <= CPU_MAX * 1000"
    )]
    let whole = whole as u64;
    Ok(whole)
}

/// `kube_quantity` takes `m` for zero, `--1` for one, and `inf` and `nan` as numbers; Kubernetes wants a digit.
fn begins_like_a_number(text: &str) -> bool {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = unsigned.strip_prefix('.').unwrap_or(unsigned);
    digits.starts_with(|c: char| c.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
    use proptest::prelude::*;

    use super::cpu_millis;

    fn millis(text: &str) -> Result<u64, String> {
        cpu_millis(&Quantity(text.to_owned()))
    }

    #[test]
    fn quantities_are_thousandths_rounded_up() {
        for (text, expected) in [
            ("0", 0),
            ("-0", 0),
            ("1", 1_000),
            ("+2", 2_000),
            ("0.5", 500),
            (".5", 500),
            ("2.", 2_000),
            ("250m", 250),
            ("0.1", 100),
            ("0.035", 35),
            ("0.0001", 1),
            ("1n", 1),
            ("1u", 1),
            ("1000u", 1),
            ("1001u", 2),
            ("100000001n", 101),
            ("1.0005", 1_001),
            ("1e3", 1_000_000),
            ("1E-3", 1),
            ("2k", 2_000_000),
            ("1Ki", 1_024_000),
            ("1000000", 1_000_000_000),
        ] {
            assert_eq!(millis(text), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_quantity_is_told_and_never_zero() {
        for text in [
            "",
            "m",
            "Ki",
            "-",
            "+",
            ".",
            "--1",
            "+-1",
            "-1",
            "-1m",
            "0x1",
            "1e999",
            "1e",
            "inf",
            "nan",
            "infinity",
            " 1",
            "1 ",
            "1mm",
            "1,5",
            "1_000",
            "one",
            "1000001",
            "1E",
            "9999999999999999999999999999999999",
            "1Ei",
            "٣",
        ] {
            let refused = millis(text);
            assert!(refused.is_err(), "{text:?} gave {refused:?}");
        }
    }

    proptest! {
        #[test]
        fn nano_cpus_round_up_exactly(nanos in 0_u64..1_000_000_000_000_000) {
            let exact = nanos.div_ceil(1_000_000);
            prop_assert_eq!(millis(&format!("{nanos}n")), Ok(exact));
            prop_assert_eq!(millis(&format!("{}.{:09}", nanos / 1_000_000_000, nanos % 1_000_000_000)), Ok(exact));
        }

        #[test]
        fn any_thousandth_in_any_spelling_is_itself(thousandths in 0_u64..1_000_000_000) {
            prop_assert_eq!(millis(&format!("{thousandths}m")), Ok(thousandths));
            prop_assert_eq!(millis(&format!("{}.{:03}", thousandths / 1_000, thousandths % 1_000)), Ok(thousandths));
        }

        #[test]
        fn any_text_is_taken_or_refused(text in ".{0,24}") {
            drop(millis(&text));
        }
    }
}
