//! What looks like a secret in a compose file. What is written to a NixOS configuration can be read by everybody on the
//! host, so a value that may be a secret is left out rather than copied, and is never shown.

/// Words at the end of a name that say it is about a secret, and is none.
const ABOUT: [&str; 41] = [
    "FILE",
    "FILES",
    "PATH",
    "DIR",
    "URL",
    "URI",
    "ENDPOINT",
    "HOST",
    "PORT",
    "ID",
    "NAME",
    "TYPE",
    "ALGORITHM",
    "ISSUER",
    "AUDIENCE",
    "EXPIRE",
    "EXPIRES",
    "EXPIRY",
    "EXPIRATION",
    "TTL",
    "TIMEOUT",
    "MINUTES",
    "SECONDS",
    "HOURS",
    "DAYS",
    "LENGTH",
    "MIN",
    "MAX",
    "SIZE",
    "COUNT",
    "LIMIT",
    "ENABLED",
    "DISABLED",
    "REQUIRED",
    "HEADER",
    "PREFIX",
    "MODE",
    "TIME",
    "HOSTNAME",
    "LANGUAGE",
    "VERSION",
];

/// Words that make what follows them a key for something.
const KINDS_OF_KEY: [&str; 9] =
    ["JWT", "API", "PRIVATE", "ACCESS", "SECRET", "ENCRYPTION", "SIGNING", "MASTER", "AUTH"];

/// Whether a variable of this name holds a secret, if it has this value.
#[must_use]
pub fn is_secret(name: &str, value: &str) -> bool {
    let nothing = matches!(value.trim().to_ascii_lowercase().as_str(), "" | "true" | "false" | "yes" | "no" | "null");
    (!nothing && (is_secret_name(name) || is_pair(name, value))) || has_url_password(value)
}

/// `NEO4J_AUTH=user/password`.
fn is_pair(name: &str, value: &str) -> bool {
    name.to_ascii_uppercase().ends_with("_AUTH") && value.contains(['/', ':'])
}

fn is_secret_name(name: &str) -> bool {
    let upper = name.to_ascii_uppercase();
    let words: Vec<&str> = upper.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let Some(last) = words.last() else { return false };
    if ABOUT.contains(last) {
        return false;
    }
    let key = |pair: &[&str]| KINDS_OF_KEY.contains(&pair[0]) && matches!(pair[1], "KEY" | "KEYS");
    let word = |word: &&str| {
        ["PASSWORD", "PASSWD", "PASSPHRASE", "SECRET", "APIKEY", "CREDENTIAL"].iter().any(|part| word.contains(part))
            || word.ends_with("TOKEN")
            || matches!(*word, "PASS" | "AUTHKEY" | "REQUIREPASS" | "BASICAUTH")
            || (*word == "PWD" && words.len() > 1)
    };
    *last == "JWT" || words.iter().any(word) || words.windows(2).any(key)
}

/// `scheme://user:password@host`, where the password is not just a variable of the container.
fn has_url_password(value: &str) -> bool {
    value.split("://").skip(1).any(|rest| {
        let authority = rest.split(['/', '?', '#', ' ', '"', '\'']).next().unwrap_or("");
        let user = authority.rsplit_once('@').map(|(user, _)| user);
        user.and_then(|user| user.split_once(':'))
            .is_some_and(|(_, password)| !password.is_empty() && !password.starts_with('$'))
    })
}

/// A secret among the arguments of a command: the option that takes it.
#[must_use]
pub fn in_arguments(arguments: &[String]) -> Option<String> {
    for (n, argument) in arguments.iter().enumerate() {
        if has_url_password(argument) {
            return Some("a URL with a password".to_owned());
        }
        // A script for a shell is one argument that has words of its own.
        if argument.contains(' ')
            && let Some(words) = super::words(argument)
            && words.len() > 1
            && let Some(option) = in_arguments(&words)
        {
            return Some(option);
        }
        let (name, value) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (argument.as_str(), arguments.get(n + 1).map(String::as_str)),
        };
        let is_option = name.starts_with('-') || argument.contains('=');
        let given =
            value.is_some_and(|value| !value.starts_with('-') && !value.starts_with('$') && is_secret(name, value));
        if is_option && given {
            return Some(name.to_owned());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_secrets_are_told_from_names_about_them() {
        for name in [
            "POSTGRES_PASSWORD",
            "PGPASSWORD",
            "SECRET_KEY",
            "SECRET_KEY_BASE",
            "JWT_SECRET",
            "HF_TOKEN",
            "OPENAI_API_KEY",
            "apikey",
            "DB_PASS",
            "MYSQL_ROOT_PWD",
            "AWS_SECRET_ACCESS_KEY",
            "CREDENTIALS",
            "ENCRYPTION_KEY",
            "x.password",
        ] {
            assert!(is_secret(name, "x1"), "{name}");
        }
        for name in [
            "PWD",
            "MAX_TOKENS",
            "TOKENIZER",
            "POSTGRES_PASSWORD_FILE",
            "ACCESS_TOKEN_EXPIRE_MINUTES",
            "COMPASS",
            "KEY",
            "AWS_ACCESS_KEY_ID",
            "BYPASS",
            "TOKEN_URL",
            "POSTGRES_USER",
        ] {
            assert!(!is_secret(name, "x1"), "{name}");
        }
        for value in ["", "true", "False"] {
            assert!(!is_secret("PASSWORD", value), "{value}");
        }
        assert!(is_secret("DATABASE_URL", "postgres://me:hidden@db/x"));
        for value in ["postgres://db/x", "http://a:80/b", "postgres://me@db", "redis://:$PASS@db"] {
            assert!(!is_secret("DATABASE_URL", value), "{value}");
        }
    }

    #[test]
    fn secrets_in_commands() {
        let found = |text: &str| in_arguments(&super::super::words(text).unwrap());
        for text in [
            "redis-server --requirepass hidden",
            "x --password=hidden",
            "sh -c 'exec redis-server --requirepass hidden'",
            "env REDIS_PASSWORD=hidden x",
            "x --url postgres://me:hidden@db",
        ] {
            assert!(found(text).is_some(), "{text}");
        }
        for text in [
            "x --max-tokens 5",
            "x --password-file /x",
            "x --token --verbose",
            "sh -c 'x --password \"$P\"'",
            "x password",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
    }
}
