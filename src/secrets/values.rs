//! What looks like a secret among values: variables, labels, arguments. No message has any part of the value.

use super::table::{Token, table};

/// Whether a variable of this name holds a secret, if it has this value.
#[must_use]
pub(crate) fn is_secret(name: &str, value: &str) -> bool {
    let small = value.trim().to_ascii_lowercase();
    let nothing = table().nothing.contains(&small);
    (!nothing && (is_secret_name(name) || is_pair(name, value) || is_long_key(name, value)))
        || has_url_password(value)
        || has_assignment(value)
        || value.contains("PRIVATE KEY-----")
        || value.to_ascii_lowercase().contains("authorization: ")
}

/// `APP_KEY=base64:…`, `SALT=…`: a long value that is not a path or address.
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
    let of = &table().variables;
    let has = |list: &[String], word: &str| list.iter().any(|known| known == word);
    let upper = name.to_ascii_uppercase();
    let words: Vec<&str> = upper.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let Some(last) = words.last() else { return false };
    if has(&of.about, last) {
        return false;
    }
    let key = |pair: &[&str]| has(&of.kinds_of_key, pair[0]) && has(&of.keys, pair[1]);
    let word = |word: &&str| {
        of.words.iter().any(|part| word.contains(part.as_str()))
            || of.endings.iter().any(|ending| word.ends_with(ending.as_str()))
            || has(&of.whole, word)
            || (has(&of.not_alone, word) && words.len() > 1)
    };
    has(&of.last, last) || words.iter().any(word) || words.windows(2).any(key)
}

/// Whether a value is there for a person to put another in its place, or for a program to fill in.
#[must_use]
pub(crate) fn is_placeholder(value: &str) -> bool {
    let small = value.trim().to_ascii_lowercase();
    let name = small.strip_prefix('$').map(|name| name.trim_start_matches('{').trim_end_matches('}'));
    let is_variable = name.is_some_and(|name| name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_'));
    let in_brackets = small.starts_with('<') && small.ends_with('>');
    is_variable || in_brackets || table().placeholders.iter().any(|word| small.starts_with(word.as_str()))
}

/// Whether a value may not be in an image: what [`is_secret`] says, or a token, unless it is a placeholder. The reason, in
/// words that go on from the name of the value.
#[must_use]
pub fn in_value(name: &str, value: &str) -> Option<String> {
    if let Some(what) = token(value.as_bytes()) {
        return Some(format!("has {what} in it"));
    }
    (is_secret(name, value) && !is_placeholder(value)).then(|| "looks like a secret".to_owned())
}

/// What kind of token is in a text, if there is one.
#[must_use]
pub(crate) fn token(text: &[u8]) -> Option<&'static str> {
    let table = table();
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    text.iter().enumerate().filter(|(_, byte)| table.token_starts[usize::from(**byte)]).find_map(|(at, _)| {
        let begins = at.checked_sub(1).is_none_or(|before| !is_word(&text[before]) && text[before] != b'-');
        let fits = |token: &&Token| begins && token.fits(&text[at..]);
        table.tokens.iter().find(fits).map(|token| token.what.as_str())
    })
}

fn has_url_password(value: &str) -> bool {
    url_password(value).is_some()
}

/// The password of `scheme://user:password@host`, unless it is just a variable of the container.
#[must_use]
pub(crate) fn url_password(value: &str) -> Option<&str> {
    value.split("://").skip(1).find_map(|rest| {
        let authority = rest.split(['/', '?', '#', ' ', '"', '\'']).next().unwrap_or("");
        let (user, _) = authority.rsplit_once('@')?;
        let (_, password) = user.split_once(':')?;
        (!password.is_empty() && !password.starts_with('$')).then_some(password)
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

/// A password after such a program, up to the end of the arguments or of a command in a script: which argument it is in, the
/// password, and how the option is called.
fn after_program(program: &str, arguments: &[String]) -> Option<(usize, String, String)> {
    let program = program.rsplit('/').next().unwrap_or_default();
    let (_, option) = SHORT.iter().find(|(name, _)| *name == program)?;
    let mut words = arguments.iter().take_while(|word| !matches!(word.as_str(), "|" | "||" | "&&" | ";")).enumerate();
    let (at, value) = words.find_map(|(at, word)| Some((at, word.strip_prefix(option)?)))?;
    // Programs of MySQL ask for it when it is not in the same word.
    let (at, value) = if value.is_empty() && *option != "-p" {
        words.next().map(|(at, word)| (at, word.as_str()))?
    } else {
        (at, value)
    };
    let given = !value.is_empty()
        && !value.starts_with('$')
        && (program != "curl" || value.contains(':') && !value.contains(":$"));
    given.then(|| (at, value.to_owned(), format!("{program} {option}")))
}

/// The words of a command, as a shell splits them; `None` if a quote does not end.
#[must_use]
pub fn words(text: &str) -> Option<Vec<String>> {
    // In a compose file, and in an argument, `#` begins no comment; this character is in no text.
    const HASH: &str = "\u{fdd0}";
    let words = shlex::split(&text.replace('#', HASH))?;
    Some(words.into_iter().map(|word| word.replace(HASH, "#")).collect())
}

/// A secret among the arguments of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GivenValue {
    /// Which argument it is in.
    pub(crate) argument: usize,
    /// The secret itself, a part of the argument.
    pub(crate) value: String,
    /// The option that takes it, for people.
    pub(crate) option: String,
}

/// The secrets among the arguments of a command, also of a script that is one of them.
#[must_use]
pub(crate) fn given(arguments: &[String]) -> Vec<GivenValue> {
    let mut all = Vec::new();
    let mut add = |argument: usize, value: &str, option: &str| {
        all.push(GivenValue { argument, value: value.to_owned(), option: option.to_owned() });
    };
    for (n, argument) in arguments.iter().enumerate() {
        // A script has words of its own, of which the address is one.
        let is_script = || argument.contains([' ', '\n']) && words(argument).is_some_and(|words| words.len() > 1);
        if let Some(password) = url_password(argument).filter(|_| !is_script()) {
            add(n, password, "a URL with a password");
            continue;
        }
        if argument.to_ascii_lowercase().starts_with("authorization: ") && !argument.contains('$') {
            add(n, &argument["authorization: ".len()..], "a header");
            continue;
        }
        if let Some((at, value, option)) = after_program(argument, &arguments[n + 1..]) {
            add(n + 1 + at, &value, &option);
            continue;
        }
        // A script for a shell is one argument that has words of its own.
        if argument.contains([' ', '\n'])
            && let Some(words) = words(argument)
            && words.len() > 1
        {
            let inner = given(&words);
            if !inner.is_empty() {
                inner.iter().for_each(|given| add(n, &given.value, &given.option));
                continue;
            }
        }
        let (name, value, at) = match argument.split_once('=') {
            Some((name, value)) => (name, Some(value), n),
            None => (argument.as_str(), arguments.get(n + 1).map(String::as_str), n + 1),
        };
        let is_option = name.starts_with('-') || argument.contains('=');
        let value = value.filter(|value| !value.starts_with('-') && !value.starts_with('$') && is_secret(name, value));
        if let Some(value) = value.filter(|_| is_option) {
            add(at, value, name);
        }
    }
    all
}

/// A secret among the arguments of a command: the option that takes it.
#[must_use]
pub(crate) fn in_arguments(arguments: &[String]) -> Option<String> {
    given(arguments).into_iter().next().map(|given| given.option)
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
    fn commands_are_split() {
        let split = |text: &str| words(text).map(|words| words.join("|"));
        assert_eq!(split("a 'b c' \"d e\" f\\ g # h").as_deref(), Some("a|b c|d e|f g|#|h"));
        assert_eq!(split("a 'b"), None);
    }

    #[test]
    fn tokens_are_told_from_words() {
        let letters = "aB3dE5gH7jK9mN1pQ2sT4vW6yZ8bC0fG3iJ5lM7oP9rS1uV";
        for (prefix, length, what) in [
            ("sk-", 48, "OpenAI"),
            ("ghp_", 36, "GitHub"),
            ("glpat-", 20, "GitLab"),
            ("hf_", 34, "Hugging Face"),
            ("npm_", 36, "npm"),
            ("dckr_pat_", 27, "Docker Hub"),
        ] {
            let found = |text: String| token(text.as_bytes());
            let good = format!("{prefix}{}", &letters[..length.min(letters.len())]);
            for text in [good.clone(), format!("x = \"{good}\"\n"), format!("Bearer {good}"), format!("A={good} b")] {
                assert!(found(text.clone()).is_some_and(|found| found.contains(what)), "{text}");
            }
            for text in [
                format!("a{good}"),
                format!("-{good}"),
                format!("{prefix}{}", &letters[..8]),
                format!("{prefix}{}", "a".repeat(length)),
                format!("{prefix}{}EXAMPLE", &letters[..length - 7]),
                format!("{good}{letters}{letters}{letters}"),
            ] {
                assert_eq!(found(text.clone()), None, "{text}");
            }
        }
        for text in ["AKIA2E4G6I7KLMNOPQRS", "x:AKIAQWERTZUIOPAS23DF"] {
            assert_eq!(token(text.as_bytes()), Some("an access key of AWS"), "{text}");
        }
        for text in
            ["AKIAIOSFODNN7EXAMPLE", "AKIAQWERTZUIOPAS23DFG", "sk-learn-contrib-and-other-words-of-python", "hf_", ""]
        {
            assert_eq!(token(text.as_bytes()), None, "{text}");
        }
        for text in ["changeme", "<your key>", "${API_KEY}", "$API_KEY", "your-api-key-here", "xxxxxxxx"] {
            assert!(is_placeholder(text), "{text}");
        }
        assert!(!is_placeholder("hunter2"));
    }

    #[test]
    fn secrets_in_commands() {
        let found = |text: &str| in_arguments(&words(text).unwrap());
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
