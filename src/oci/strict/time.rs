//! Times as Go's `time.Time` reads them from JSON, and RFC 3339 writes them.

/// Whether Go reads this text, as it stands between the quotes, for a time. Go's own reader takes more than RFC 3339 has
/// (an hour of one digit, a comma before the fraction, an offset of 24 hours or more) and announces that it will not
/// always (go.dev/issue/54580), so these are left out. No leap seconds, no small letters, no escapes.
#[must_use]
pub fn is_time(text: &str) -> bool {
    parse(text.as_bytes()).is_some()
}

fn parse(text: &[u8]) -> Option<()> {
    let (year, rest) = digits::<4>(text)?;
    let (month, rest) = digits::<2>(after(rest, b'-')?)?;
    let (day, rest) = digits::<2>(after(rest, b'-')?)?;
    let (hour, rest) = digits::<2>(after(rest, b'T')?)?;
    let (minute, rest) = digits::<2>(after(rest, b':')?)?;
    let (second, mut rest) = digits::<2>(after(rest, b':')?)?;
    if let Some(fraction) = after(rest, b'.') {
        let length = fraction.iter().take_while(|byte| byte.is_ascii_digit()).count();
        rest = (length > 0).then(|| &fraction[length..])?;
    }
    let is_there =
        (1..=12).contains(&month) && (1..=days(year, month)).contains(&day) && hour < 24 && minute < 60 && second < 60;
    let is_zone = match rest {
        b"Z" => true,
        [b'+' | b'-', offset @ ..] => {
            let (hours, rest) = digits::<2>(offset)?;
            let (minutes, rest) = digits::<2>(after(rest, b':')?)?;
            hours < 24 && minutes < 60 && rest.is_empty()
        }
        _ => false,
    };
    (is_there && is_zone).then_some(())
}

fn digits<const N: usize>(text: &[u8]) -> Option<(u32, &[u8])> {
    let (number, rest) = text.split_at_checked(N)?;
    let number =
        number.iter().try_fold(0, |sum, byte| byte.is_ascii_digit().then(|| sum * 10 + u32::from(byte - b'0')));
    Some((number?, rest))
}

fn after(text: &[u8], byte: u8) -> Option<&[u8]> {
    text.strip_prefix(&[byte])
}

const fn days(year: u32, month: u32) -> u32 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)) => 29,
        2 => 28,
        _ => 31,
    }
}
