//! Bytes for people.

/// Bytes in powers of ten: `79.2 MB`.
#[must_use]
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "kB", "MB", "GB", "TB"];
    let mut unit = 0;
    let mut divisor = 1_u64;
    while bytes / divisor >= 1000 && unit + 1 < UNITS.len() {
        divisor *= 1000;
        unit += 1;
    }
    if unit == 0 {
        return format!("{bytes} B");
    }
    let tenths = (u128::from(bytes) * 10 + u128::from(divisor) / 2) / u128::from(divisor);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// `20GB`, `4GiB`, `512M`, or bytes.
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => Some(1),
        "k" | "kb" => Some(1000),
        "m" | "mb" => Some(1000_u64.pow(2)),
        "g" | "gb" => Some(1000_u64.pow(3)),
        "t" | "tb" => Some(1000_u64.pow(4)),
        "kib" => Some(1 << 10),
        "mib" => Some(1 << 20),
        "gib" => Some(1 << 30),
        "tib" => Some(1 << 40),
        _ => None,
    };
    let number = digits.trim().parse::<u64>().ok();
    unit.zip(number)
        .and_then(|(unit, number)| number.checked_mul(unit))
        .ok_or_else(|| "expected a whole number with a unit like 20GB or 4GiB, or bytes".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_in_powers_of_ten() {
        for (bytes, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.0 kB"),
            (79_249_000, "79.2 MB"),
            (4_294_967_296, "4.3 GB"),
            (u64::MAX, "18446744.1 TB"),
        ] {
            assert_eq!(size(bytes), text);
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, expected) in [
            ("20GB", Ok(20_000_000_000)),
            ("4GiB", Ok(4 << 30)),
            ("12", Ok(12)),
            ("3 MB", Ok(3_000_000)),
            ("1t", Ok(1_000_000_000_000)),
            ("", Err(())),
            ("GB", Err(())),
            ("1.5GB", Err(())),
            ("-1", Err(())),
            ("5 Zi", Err(())),
            ("99999999999TB", Err(())),
        ] {
            assert_eq!(parse_size(text).map_err(drop), expected, "{text}");
        }
    }
}
