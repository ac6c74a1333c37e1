//! A health check for images without a shell or curl: one static program, and nothing of it in the image but itself.
//!
//! Exit code 0: healthy. 1: not, and one line on standard output says why. 2: the arguments are wrong.
//!
//! It looks no name up: what resolves names in a C library wants other libraries at run time, which an image does not
//! have. A health check asks its own container, so an address or `localhost` is enough.

mod address;
mod exec;
mod http;

use std::ffi::OsString;
use std::io::{self, Write};
use std::ops::RangeInclusive;
use std::process::{Command, ExitCode};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use self::address::{Address, parse_url};
use self::exec::exec;
use self::http::http;

const HELP: &str = r#"Ask a service whether it works

Usage:
  windlass-probe http URL [--status 200-299] [--contains TEXT] [--timeout 5s] [--wait TIME]
  windlass-probe tcp HOST:PORT|unix:PATH [--send TEXT] [--expect TEXT] [--timeout 5s] [--wait TIME]
  windlass-probe exec [--contains TEXT] [--timeout 5s] [--wait TIME] -- PROGRAM [ARGUMENT...]

http  GET URL (http://HOST[:PORT]/PATH) answers with such a status; a redirect is not followed, and is not healthy
      unless --status says so. --contains: and the first MiB of the answer has this text.
tcp   Something listens. --send: says this first. --expect: and its answer has this text.
      In both texts \r \n \t \0 \\ and \xNN stand for bytes.
exec  PROGRAM ends with exit code 0. --contains: and the first MiB of its output has this text.
      The first line of its output is passed on. PROGRAM is killed when the time is up; what it started is not.

HOST is an IP address ([::1] in brackets) or localhost: no name is looked up.
--timeout is for all of it: 500ms, 5s (so it is by default), 2m.
--wait 15m: asks again, four times a second, until the service is healthy or that time is up.

Exit codes: 0 healthy; 1 not, and one line on standard output says why; 2 the arguments are wrong.

Examples:
  windlass-probe http http://127.0.0.1:8080/health --contains ok
  windlass-probe tcp 127.0.0.1:6379 --send 'PING\r\n' --expect +PONG
"#;

/// What is read of a body or of a program's output at most.
const BODY: usize = 1 << 20;
/// What is read of the lines before a body at most.
const HEAD: usize = 64 << 10;
/// A line longer than this is cut when it is passed on.
const LINE: usize = 200;

/// The pause before a service that was not healthy is asked again.
const PAUSE: Duration = Duration::from_millis(250);

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let ours = arguments.iter().take_while(|argument| *argument != "--");
    if ours.clone().any(|argument| argument == "--help" || argument == "-h") {
        print(&mut io::stdout(), HELP);
        return ExitCode::SUCCESS;
    }
    let (line, code) = match parse(arguments) {
        Err(message) => {
            print(&mut io::stderr(), &format!("windlass-probe: {message}; see windlass-probe --help\n"));
            return ExitCode::from(2);
        }
        Ok((check, wait)) => last_of(&check, wait).map_or_else(|line| (line, 1), |line| (line, 0)),
    };
    if !line.is_empty() {
        print(&mut io::stdout(), &format!("{line}\n"));
    }
    ExitCode::from(code)
}

/// A closed output says nothing about the service.
fn print(to: &mut impl Write, text: &str) {
    drop(to.write_all(text.as_bytes()).and_then(|()| to.flush()));
}

/// Asks, and gives the line to print, if there is one: healthy, or not.
type ProbeCheck = Box<dyn Fn() -> Result<String, String>>;

/// What the service says when it is healthy, or the last thing that it says before the time is up.
fn last_of(check: &ProbeCheck, wait: Duration) -> Result<String, String> {
    let deadline = Instant::now() + wait;
    loop {
        let result = check();
        if result.is_ok() || Instant::now() >= deadline {
            return result;
        }
        thread::sleep(PAUSE.min(deadline.saturating_duration_since(Instant::now())));
    }
}

/// What is asked, and how long it is asked again.
fn parse(arguments: Vec<OsString>) -> Result<(ProbeCheck, Duration), String> {
    let mut arguments = arguments.into_iter();
    let utf8 = |text: OsString| text.into_string().map_err(|text| format!("{} is not UTF-8", text.display()));
    let mode = utf8(arguments.next().ok_or("expected http, tcp or exec")?)?;
    let known: &[&str] = match mode.as_str() {
        "http" => &["status", "contains"],
        "tcp" => &["send", "expect"],
        "exec" => &["contains"],
        _ => return Err(format!("'{mode}': expected http, tcp or exec")),
    };
    let (mut timeout, mut wait) = (Duration::from_secs(5), Duration::ZERO);
    let (mut status, mut contains, mut send, mut expect) = (200..=299, None, Vec::new(), None);
    let mut target = None;
    while let Some(argument) = arguments.next() {
        let argument = utf8(argument)?;
        if argument == "--" && mode == "exec" {
            break;
        }
        let Some(option) = argument.strip_prefix("--") else {
            // It may hold a secret, so it is not quoted.
            if mode == "exec" {
                return Err("exec: an argument too many; write -- before the program".to_owned());
            }
            if target.is_some() {
                return Err(format!("{mode}: an argument too many"));
            }
            target = Some(argument);
            continue;
        };
        let (name, value) = match option.split_once('=') {
            Some((name, value)) => (name, value.to_owned()),
            None => (option, utf8(arguments.next().ok_or_else(|| format!("--{option} needs a value"))?)?),
        };
        if !matches!(name, "timeout" | "wait") && !known.contains(&name) {
            return Err(format!("{mode} has no option --{name}"));
        }
        match name {
            "timeout" => timeout = duration(name, &value)?,
            "wait" => wait = duration(name, &value)?,
            "status" => status = statuses(&value)?,
            "contains" => contains = Some(value),
            "send" => send = unescape(&value)?,
            _ => expect = Some(unescape(&value)?),
        }
    }
    let check: ProbeCheck = match (mode.as_str(), target) {
        ("http", Some(url)) => {
            let (at, path) = parse_url(&url)?;
            Box::new(move || {
                let (path, status, contains) = (path.clone(), status.clone(), contains.clone());
                ask(at.clone(), timeout, move |at, tell| http(at, &path, &status, contains.as_deref(), tell))
            })
        }
        ("http", None) => return Err("http: expected a URL".to_owned()),
        ("tcp", Some(target)) => {
            let at = Address::parse(&target, None)?;
            Box::new(move || {
                let (send, expect) = (send.clone(), expect.clone());
                ask(at.clone(), timeout, move |at, tell| tcp(at, &send, expect.as_deref(), tell))
            })
        }
        ("tcp", None) => return Err("tcp: expected HOST:PORT or unix:PATH".to_owned()),
        _ => {
            let program = arguments.next().ok_or("exec: expected -- PROGRAM")?;
            let arguments: Vec<OsString> = arguments.collect();
            Box::new(move || {
                let mut command = Command::new(&program);
                command.args(&arguments);
                exec(command, contains.as_deref(), timeout)
            })
        }
    };
    Ok((check, wait))
}

/// Not every system call takes a time limit, so one thread asks, and this one looks at the clock.
fn ask<F>(at: Address, timeout: Duration, question: F) -> Result<String, String>
where
    F: FnOnce(&Address, &Sender<Event>) -> Result<(), String> + Send + 'static,
{
    let deadline = Instant::now() + timeout;
    let text = at.text.clone();
    let (tell, events) = channel();
    let thread = thread::Builder::new().spawn(move || {
        let result = question(&at, &tell);
        tell.send(Event::Done(result))
    });
    thread.map_err(plain)?;
    let mut missing = "no connection";
    let result = loop {
        match events.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(Event::Missing(what)) => missing = what,
            Ok(Event::Done(result)) => break result,
            Err(RecvTimeoutError::Timeout) => break Err(format!("{missing} within {timeout:?}")),
            Err(RecvTimeoutError::Disconnected) => break Err("the probe itself failed".to_owned()),
        }
    };
    result.map(|()| String::new()).map_err(|message| format!("{text}: {message}"))
}

/// What the asking thread tells.
enum Event {
    /// What it is waiting for.
    Missing(&'static str),
    Done(Result<(), String>),
}

fn duration(option: &str, text: &str) -> Result<Duration, String> {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let millis = [("ms", 1), ("s", 1000), ("m", 60_000)].into_iter().find(|(name, _)| *name == unit);
    match (number.parse::<u32>(), millis) {
        (Ok(number @ 1..), Some((_, millis))) => Ok(Duration::from_millis(u64::from(number) * millis)),
        _ => Err(format!("--{option} '{text}': expected a time like 500ms, 5s or 2m")),
    }
}

fn statuses(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (first.parse(), last.parse()) {
        (Ok(first), Ok(last)) if (100..=599).contains(&first) && (first..=599).contains(&last) => Ok(first..=last),
        _ => Err(format!("--status '{text}': expected a status or a range of them, like 200 or 200-299")),
    }
}

/// The bytes that a text with `\r`, `\n`, `\t`, `\0`, `\\` and `\xNN` stands for.
fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((plain, escape)) = rest.split_once('\\') {
        bytes.extend_from_slice(plain.as_bytes());
        let hex = escape.get(1..3).filter(|hex| hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let (byte, length) = match (escape.bytes().next(), hex.and_then(|hex| u8::from_str_radix(hex, 16).ok())) {
            (Some(b'r'), _) => (b'\r', 1),
            (Some(b'n'), _) => (b'\n', 1),
            (Some(b't'), _) => (b'\t', 1),
            (Some(b'0'), _) => (0, 1),
            (Some(b'\\'), _) => (b'\\', 1),
            (Some(b'x'), Some(byte)) => (byte, 3),
            _ => return Err("--send and --expect know \\r \\n \\t \\0 \\\\ and \\xNN after a backslash".to_owned()),
        };
        bytes.push(byte);
        rest = &escape[length..];
    }
    bytes.extend_from_slice(rest.as_bytes());
    Ok(bytes)
}

fn tcp(at: &Address, send: &[u8], expect: Option<&[u8]>, tell: &Sender<Event>) -> Result<(), String> {
    let mut stream = at.connect()?;
    drop(tell.send(Event::Missing("no expected answer")));
    stream.write_all(send).map_err(plain)?;
    let Some(expect) = expect else { return Ok(()) };
    let mut answer = Vec::new();
    let mut chunk = [0; 4096];
    while !holds(&answer, expect) {
        let got = stream.read(&mut chunk).map_err(plain)?;
        answer.extend_from_slice(&chunk[..got]);
        let (expected, found) = (first_line(expect), first_line(&answer));
        if got == 0 {
            return Err(format!("expected '{expected}', but it closed the connection after '{found}'"));
        }
        if answer.len() > HEAD {
            return Err(format!("expected '{expected}' in the first {} KiB of '{found}'", HEAD >> 10));
        }
    }
    Ok(())
}

fn holds(bytes: &[u8], text: &[u8]) -> bool {
    text.is_empty() || bytes.windows(text.len()).any(|window| window == text)
}

/// The first line that is not empty, fit to be printed.
fn first_line(bytes: &[u8]) -> String {
    let line = bytes.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii).find(|line| !line.is_empty());
    let text = String::from_utf8_lossy(line.unwrap_or_default());
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).take(LINE).collect()
}

/// `Connection refused` instead of `Connection refused (os error 111)`.
fn plain(error: io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((text, _)) => text.to_owned(),
        None => text,
    }
}
