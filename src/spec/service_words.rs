//! The words of a container description: ports, volumes, sizes, times and hosts, as Podman and systemd take them.

use std::sync::OnceLock;

use regex::Regex;

use crate::names::is_name;

/// Whether a health check passes whatever the container does: `true`, `exit 0`, `curl … || true`. nix/modules/health-check.nix says
/// the same.
#[must_use]
pub(crate) fn cannot_fail(command: &[String]) -> bool {
    static RULES: OnceLock<[Regex; 4]> = OnceLock::new();
    let [nothing, or_nothing, then_nothing, fails] = RULES.get_or_init(|| {
        let passes = r"((/usr)?/bin/)?(true|:|exit\s+0)";
        [
            format!(r"^\s*(?:{passes}|((/usr)?/bin/)?(echo|printf)(\s[^|&;$`<>\n]*)?)\s*;?\s*$"),
            format!(r"^[^;&\n]*\|\|\s*{passes}\s*;?\s*$"),
            format!(r"^[^;&|\n]*[;\n]\s*{passes}\s*;?\s*$"),
            r"exit\s+[^0\s]|set\s+-".to_owned(),
        ]
        .map(|rule| Regex::new(&rule).expect("it is written here"))
    });
    let base = |word: &String| word.rsplit('/').next().unwrap_or_default().to_owned();
    let words: Vec<&String> =
        command.iter().skip_while(|word| matches!(base(word).as_str(), "env" | "busybox")).collect();
    let Some(program) = words.first().map(|word| base(word)) else { return false };
    let script = match program.as_str() {
        "sh" | "bash" | "ash" | "dash" => {
            let at = words.iter().position(|word| word.starts_with('-') && word.ends_with('c'));
            at.and_then(|at| words.get(at + 1)).map(|script| (*script).clone())
        }
        "true" | ":" | "echo" | "printf" => return true,
        _ => None,
    };
    script.is_some_and(|script| {
        nothing.is_match(&script)
            || ((or_nothing.is_match(&script) || then_nothing.is_match(&script)) && !fails.is_match(&script))
    })
}

/// Whether a secret can be read from there: the path is a word of systemd's.
#[must_use]
pub(crate) fn is_secret_file(path: &str) -> bool {
    path.starts_with('/') && path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._/@+:-".contains(&byte))
}

/// Whether this is the name of a host, with or without its domain.
#[must_use]
pub(crate) fn is_host_name(text: &str) -> bool {
    let ends = |c: char| c.is_ascii_alphanumeric();
    text.len() <= 253
        && text.starts_with(ends)
        && text.ends_with(ends)
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".-".contains(&byte))
}

/// Whether Podman would change the owner of store paths for this volume: what Nix vouches for would be another's.
#[must_use]
pub(crate) fn owns_store(volume: &str) -> bool {
    let mut parts = volume.split(':');
    let source = parts.next().unwrap_or_default();
    let options = parts.nth(1).unwrap_or_default();
    source.starts_with("/nix/store") && options.split(',').any(|option| option == "U")
}

/// `[[IP:][HOST]:]CONTAINER[/PROTOCOL]` in three parts: what is before the container's port, that, and the protocol.
#[must_use]
pub fn split_port(text: &str) -> (&str, &str, Option<&str>) {
    let (text, protocol) = text.split_once('/').map_or((text, None), |(text, protocol)| (text, Some(protocol)));
    let (host, container) = text.rsplit_once(':').unwrap_or(("", text));
    (host, container, protocol)
}

pub(super) fn is_port(text: &str) -> bool {
    let range = |text: &str| {
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (first.parse::<u16>(), last.parse::<u16>());
        matches!((first, last), (Ok(first), Ok(last)) if 0 < first && first <= last)
    };
    let (host, container, protocol) = split_port(text);
    let (ip, port) = host.rsplit_once(':').unwrap_or(("", host));
    let ip_fits = ip.is_empty() || ip.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok();
    let protocol_fits = matches!(protocol, None | Some("tcp" | "udp" | "sctp"));
    range(container) && (port.is_empty() || range(port)) && ip_fits && protocol_fits
}

pub(super) fn is_volume(text: &str) -> bool {
    let mut parts = text.split(':');
    let (source, target, options, rest) = (parts.next(), parts.next(), parts.next(), parts.next());
    let (Some(source), None) = (source, rest) else { return false };
    match target {
        None => source.starts_with('/'),
        Some(target) => (source.starts_with('/') || is_name(source)) && target.starts_with('/') && options != Some(""),
    }
}

/// `512m`, `2g`: what Podman and the NixOS module both read as an amount of memory.
#[must_use]
pub(crate) fn is_size(text: &str) -> bool {
    let digits = text.trim_end_matches(['b', 'k', 'm', 'g', 'B', 'K', 'M', 'G']);
    text.len() - digits.len() < 2 && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit())
}

/// `30s`, `1m30s`: what Podman and systemd both read as a time.
#[must_use]
pub fn is_time(text: &str) -> bool {
    !text.contains(['.', 'u', 'n', 'µ']) && text != "0" && seconds(text).is_some()
}

/// The seconds of a time as Go writes it, `1m30s`, rounded up.
#[must_use]
pub fn seconds(text: &str) -> Option<u32> {
    if text == "0" {
        return Some(0);
    }
    let (mut total, mut rest) = (0.0_f64, text);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(digits);
        let unit = after.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(after.len());
        let factor = match &after[..unit] {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        total += number.parse::<f64>().ok()? * factor;
        rest = &after[unit..];
    }
    // Through text: there is no lossless cast, and none that is checked.
    (!text.is_empty() && total <= f64::from(u32::MAX)).then(|| format!("{:.0}", total.ceil()).parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_volumes_sizes_and_times_are_told_from_what_is_none() {
        for port in ["80", "8080:80", "127.0.0.1:8080:80/udp", "[::1]:80:80", "127.0.0.1::80", "7000-7010:7000-7010"] {
            assert!(is_port(port), "{port}");
        }
        for port in ["", "web", "0", "80:", "1.2.3:80:80", "80/icmp", "9-8", "65536", "a:80:80"] {
            assert!(!is_port(port), "{port}");
        }
        for volume in ["data:/data", "/srv/x:/x:ro,Z", "/data"] {
            assert!(is_volume(volume), "{volume}");
        }
        for volume in ["", "data", "data:data", "./x:/x", "a:/b:", "a:/b:ro:rw"] {
            assert!(!is_volume(volume), "{volume}");
        }
        for size in ["512m", "2g", "100", "10b", "1G"] {
            assert!(is_size(size), "{size}");
        }
        for size in ["", "g", "2x", "2 apples", "1.5g", "64mb", "-1g"] {
            assert!(!is_size(size), "{size}");
        }
        for (time, whole) in [("30s", 30), ("1m30s", 90), ("1h", 3600), ("500ms", 1), ("1.5s", 2), ("0", 0), ("0s", 0)]
        {
            assert_eq!(seconds(time), Some(whole), "{time}");
        }
        for time in ["30s", "1h2m3s4ms"] {
            assert!(is_time(time), "{time}");
        }
        for time in ["0", "1.5s", "3us"] {
            assert!(!is_time(time), "{time}");
        }
        for time in ["", "30", "s", "1d", "1m30", "99999999999h"] {
            assert_eq!(seconds(time), None, "{time}");
        }
    }
}
