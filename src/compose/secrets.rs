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
    (!nothing && (is_secret_name(name) || is_pair(name, value) || is_long_key(name, value)))
        || has_url_password(value)
        || has_assignment(value)
        || value.contains("PRIVATE KEY-----")
        || value.to_ascii_lowercase().contains("authorization: ")
}

/// `APP_KEY=base64:…`, `SALT=…`: a long value that is no path or address.
fn is_long_key(name: &str, value: &str) -> bool {
    let last = name.rsplit(|c: char| !c.is_ascii_alphanumeric()).next().unwrap_or_default().to_ascii_uppercase();
    matches!(last.as_str(), "KEY" | "SALT")
        && value.len() >= 16
        && !value.starts_with(['/', '.'])
        && !value.contains([' ', '$'])
}

/// `Server=db;Password=…`, `jdbc:…?user=a&password=…`.
fn has_assignment(value: &str) -> bool {
    value
        .split([';', '&', '?', ','])
        .skip(1)
        .filter_map(|part| part.split_once('='))
        .any(|(name, value)| !value.is_empty() && !value.starts_with('$') && is_secret_name(name.trim()))
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

/// Programs with a short option that takes a password, as the next word or in the same one.
const SHORT: [(&str, &str); 8] = [
    ("curl", "-u"),
    ("mariadb", "-p"),
    ("mariadb-admin", "-p"),
    ("mysql", "-p"),
    ("mysqladmin", "-p"),
    ("redis-cli", "-a"),
    ("sqlcmd", "-P"),
    ("valkey-cli", "-a"),
];

/// A password after such a program, up to the end of the arguments or of a command in a script.
fn after_program(program: &str, arguments: &[String]) -> Option<String> {
    let program = program.rsplit('/').next().unwrap_or_default();
    let (_, option) = SHORT.iter().find(|(name, _)| *name == program)?;
    let mut words = arguments.iter().take_while(|word| !matches!(word.as_str(), "|" | "||" | "&&" | ";"));
    let value = words.find_map(|word| word.strip_prefix(option))?;
    // Programs of MySQL ask for it when it is not in the same word.
    let value = if value.is_empty() && *option != "-p" { words.next()?.as_str() } else { value };
    let given = !value.is_empty()
        && !value.starts_with('$')
        && (program != "curl" || value.contains(':') && !value.contains(":$"));
    given.then(|| format!("{program} {option}"))
}

/// A secret among the arguments of a command: the option that takes it.
#[must_use]
pub fn in_arguments(arguments: &[String]) -> Option<String> {
    for (n, argument) in arguments.iter().enumerate() {
        if has_url_password(argument) {
            return Some("a URL with a password".to_owned());
        }
        if argument.to_ascii_lowercase().starts_with("authorization: ") && !argument.contains('$') {
            return Some("a header".to_owned());
        }
        if let Some(option) = after_program(argument, &arguments[n + 1..]) {
            return Some(option);
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
        for (name, value) in [
            ("DATABASE_URL", "postgres://me:hidden@db/x"),
            ("ConnectionStrings__Default", "Server=db;User Id=a;Password=hidden"),
            ("JDBC", "jdbc:postgresql://db/x?user=a&password=hidden"),
            ("APP_KEY", "base64:AAAAAAAAAAAAAAAAAAAA="),
            ("X", "-----BEGIN PRIVATE KEY-----"),
        ] {
            assert!(is_secret(name, value), "{name}");
        }
        for (name, value) in [("TLS_KEY", "/etc/ssl/private/key.pem"), ("SORT_KEY", "name"), ("Q", "a=1&token=&b=2")] {
            assert!(!is_secret(name, value), "{name}");
        }
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
            "redis-cli -a hidden ping",
            "sh -c 'redis-cli --raw -a hidden ping | grep PONG'",
            "mysqladmin ping -uroot -phidden",
            "curl -su me x -u me:hidden http://x",
            "curl -H 'Authorization: Bearer hidden' http://x",
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
            "redis-cli ping",
            "redis-cli -a $PASSWORD ping",
            "mysqladmin ping -h db -p$PASSWORD",
            "mysqladmin ping -p db",
            "curl -u me:$PASSWORD http://x",
            "curl -f http://x && ls -u a:b",
            "x -a b",
        ] {
            assert_eq!(found(text), None, "{text}");
        }
    }
}
