//! RFC 3339 timestamps as container runtimes write them, to nanoseconds since 1970. Total: never panics.

/// Nanoseconds since 1970 of `2026-11-25T10:00:00.123456789Z` or with an offset such as `+02:00`; up to nine digits of the
/// second, further ones are ignored. `None` for anything else, and for years before 1970 or after 2553, which do not fit.
#[must_use]
pub fn unix_ns(text: &[u8]) -> Option<u64> {
    let (date, rest) = text.split_at_checked(10)?;
    let (time, rest) = rest.split_at_checked(9)?;
    let &[y1, y2, y3, y4, b'-', m1, m2, b'-', d1, d2] = date else {
        return None;
    };
    let &[b'T' | b't', h1, h2, b':', n1, n2, b':', s1, s2] = time else {
        return None;
    };
    let year = two(y1, y2)? * 100 + two(y3, y4)?;
    let (month, day) = (two(m1, m2)?, two(d1, d2)?);
    let (hour, minute, second) = (two(h1, h2)?, two(n1, n2)?, two(s1, s2)?);
    let fits =
        (1970..=2553).contains(&year) && (1..=12).contains(&month) && (1..=31).contains(&day);
    // A leap second is written as 60.
    if !fits || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (nanoseconds, zone) = fraction(rest)?;
    let local =
        i64::from(days(year, month, day)) * 86_400 + i64::from(hour * 3_600 + minute * 60 + second);
    let unix = u64::try_from(local - offset(zone)?).ok()?;
    unix.checked_mul(1_000_000_000)?
        .checked_add(u64::from(nanoseconds))
}

fn two(tens: u8, ones: u8) -> Option<u32> {
    let (tens, ones) = (tens.wrapping_sub(b'0'), ones.wrapping_sub(b'0'));
    (tens <= 9 && ones <= 9).then(|| u32::from(tens) * 10 + u32::from(ones))
}

/// The nanoseconds after a point, if there is one, and what follows them.
fn fraction(text: &[u8]) -> Option<(u32, &[u8])> {
    let Some((b'.', digits)) = text.split_first() else {
        return Some((0, text));
    };
    let (mut value, mut scale, mut rest) = (0_u32, 100_000_000_u32, digits);
    while let Some((&digit @ b'0'..=b'9', after)) = rest.split_first() {
        value += u32::from(digit - b'0') * scale;
        scale /= 10;
        rest = after;
    }
    (rest.len() < digits.len()).then_some((value, rest))
}

/// Seconds east of Greenwich.
fn offset(zone: &[u8]) -> Option<i64> {
    match zone {
        [b'Z' | b'z'] => Some(0),
        &[sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] => {
            let (hours, minutes) = (two(h1, h2)?, two(m1, m2)?);
            if hours > 23 || minutes > 59 {
                return None;
            }
            let seconds = i64::from(hours * 3_600 + minutes * 60);
            Some(if sign == b'-' { -seconds } else { seconds })
        }
        _ => None,
    }
}

/// Days since 1970 in the Gregorian calendar, for years from 1970. A day that its month has not counts on into the next.
fn days(year: u32, month: u32, day: u32) -> u32 {
    // Years are taken to begin in March, so that the leap day is their last.
    let (year, month) = if month > 2 {
        (year, month - 3)
    } else {
        (year - 1, month + 9)
    };
    let leap_days = year / 4 - year / 100 + year / 400;
    year * 365 + leap_days + (month * 153 + 2) / 5 + day - 1 - 719_468
}

#[cfg(test)]
mod tests {
    use super::unix_ns;

    #[test]
    fn as_the_runtimes_write_them() {
        for (text, want) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2016-10-06T00:17:09.669794202Z", 1_475_713_029_669_794_202),
            (
                "2016-10-06T02:17:09.669794202+02:00",
                1_475_713_029_669_794_202,
            ),
            (
                "2016-10-05T19:47:09.669794202-04:30",
                1_475_713_029_669_794_202,
            ),
            ("2024-02-29T23:59:59.5Z", 1_709_251_199_500_000_000),
            ("2100-03-01T00:00:00.000000001Z", 4_107_542_400_000_000_001),
            ("2026-11-25T10:00:00.1234567891Z", 1_795_600_800_123_456_789),
            ("2553-12-31T23:59:59.999999999Z", 18_429_292_799_999_999_999),
        ] {
            assert_eq!(unix_ns(text.as_bytes()), Some(want), "{text}");
        }
    }

    #[test]
    fn nothing_else() {
        for text in [
            "",
            "2016",
            "2016-10-06 00:17:09Z",
            "2016-10-06T00:17:09",
            "2016-10-06T00:17:09.Z",
            "2016-13-06T00:17:09Z",
            "2016-00-06T00:17:09Z",
            "2016-10-32T00:17:09Z",
            "2016-10-06T24:17:09Z",
            "9999-10-06T00:17:09Z",
            "1969-12-31T23:59:59Z",
            "2016-10-06T00:17:09Zx",
            "2016-10-06T00:17:09+2:00",
            "1970-01-01T00:00:00+00:01",
            "2o16-10-06T00:17:09Z",
            "2016-10-06T00:17:09.1+99:00",
        ] {
            assert_eq!(unix_ns(text.as_bytes()), None, "{text}");
        }
    }
}
