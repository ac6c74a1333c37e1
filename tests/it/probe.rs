//! windlass-probe, as images have it: the static program, against sockets that answer as told, and in an empty container.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::engine::{Podman, Said};
use crate::env::{Env, run_ok};
use crate::nix::root;

/// The static program; built here when it is older than its source.
fn program() -> &'static Path {
    static PROGRAM: LazyLock<std::path::PathBuf> = LazyLock::new(|| {
        run_ok(Command::new("bash").arg(root().join("tests/parts.sh")).arg("probe"));
        root().join("target/probe/windlass-probe")
    });
    &PROGRAM
}

fn probe(arguments: &[&str]) -> Said {
    Said::of(&Command::new(program()).args(arguments).output().unwrap())
}

/// Exit code and standard output of a probe that says nothing else.
fn verdict(arguments: &[&str]) -> (i32, String) {
    let said = probe(arguments);
    assert_eq!(said.stderr, "", "{arguments:?}");
    (said.code, said.stdout)
}

/// Listens, and does this with each connection.
fn server(serve: impl Fn(&mut TcpStream) + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || listener.incoming().for_each(|stream| serve(&mut stream.unwrap())));
    address
}

/// Reads a request to its empty line.
fn request(stream: &mut TcpStream) -> String {
    let mut request = Vec::new();
    let mut byte = [0];
    while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
        request.push(byte[0]);
    }
    String::from_utf8(request).unwrap()
}

/// What the probe says of an answer, with the server's address as `AT`.
fn answered(answer: &[u8], options: &[&str]) -> (i32, String) {
    let answer = answer.to_owned();
    let address = server(move |stream| {
        request(stream);
        // The client hangs up when it has read enough.
        drop(stream.write_all(&answer));
    });
    let (code, line) = verdict(&[&["http", &format!("http://{address}/health?token=s3cret")], options].concat());
    (code, line.replace(&address, "AT"))
}

fn says(code: i32, line: &str) -> (i32, String) {
    (code, if line.is_empty() { String::new() } else { format!("{line}\n") })
}

#[test]
fn an_answer_is_healthy_by_its_status_and_its_text() {
    let healthy = says(0, "");
    let ok = b"HTTP/1.1 200 OK\r\nContent-Length: 15\r\n\r\n{\"status\":\"ok\"}";
    assert_eq!(answered(ok, &[]), healthy);
    assert_eq!(answered(ok, &["--contains", r#""ok""#]), healthy);
    assert_eq!(answered(ok, &["--contains=down"]), says(1, "AT: status 200, but the answer lacks 'down'"));
    assert_eq!(answered(ok, &["--status", "201-299"]), says(1, "AT: status 200"));
    assert_eq!(answered(ok, &["--status=200"]), healthy);
    assert_eq!(answered(b"HTTP/1.0 200 Fine\n\nall is well", &["--contains", "is well"]), healthy);
    assert_eq!(answered(b"HTTP/1.1 204 No Content\r\nContent-Length: 9\r\n\r\n", &[]), healthy);
    let announced = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(answered(announced, &[]), healthy);
    assert_eq!(answered(b"HTTP/1.1 503 Loading\r\n\r\n", &[]), says(1, "AT: status 503"));
    let moved = b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\n\r\n";
    assert_eq!(answered(moved, &[]), says(1, "AT: status 302"));
    assert_eq!(answered(moved, &["--status", "302"]), healthy);

    let chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 1\r\n\r\n3;x=y\r\nall\r\n8\r\n is well\r\n0\r\n\r\n";
    assert_eq!(answered(chunked, &["--contains", "all is well"]), healthy);
    // More than is read of an answer, and no end to it.
    let mut endless = b"HTTP/1.1 200 OK\r\n\r\nbegin".to_vec();
    endless.resize(3 << 20, b'.');
    assert_eq!(answered(&endless, &["--contains", "begin"]), healthy);
    endless.extend(b"end");
    assert_eq!(answered(&endless, &["--contains", "end"]).0, 1);
}

#[test]
fn what_is_asked_is_one_plain_request() {
    let (sender, requests) = std::sync::mpsc::channel();
    let address = server(move |stream| {
        sender.send(request(stream)).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
    });
    let port = address.rsplit_once(':').unwrap().1;
    for (url, line, host) in [
        (format!("http://{address}"), "GET / HTTP/1.1", address.clone()),
        (format!("http://{address}/api/version#x"), "GET /api/version HTTP/1.1", address.clone()),
        (format!("http://localhost:{port}?a=b"), "GET /?a=b HTTP/1.1", format!("localhost:{port}")),
    ] {
        assert_eq!(verdict(&["http", &url]), says(0, ""));
        let request = requests.recv().unwrap();
        assert_eq!(request.lines().next(), Some(line));
        assert!(request.contains(&format!("\r\nHost: {host}\r\n")), "{request}");
        assert!(request.contains("\r\nConnection: close\r\n"), "{request}");
    }
}

#[test]
fn an_answer_that_is_none_is_told_by_what_is_wrong_with_it() {
    for (answer, line) in [
        (&b"-ERR unknown command 'GET'\r\n"[..], "this is not HTTP: '-ERR unknown command 'GET''"),
        (b"\x16\x03\x01\x1b[2J\n", "this is not HTTP: '\u{fffd}\u{fffd}\u{fffd}\u{fffd}[2J'"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", "this is not HTTP: 'HTTP/1.1 2000 OK'"),
        (b"", "it closed the connection without an answer"),
        (b"HTTP/1.1 200", "it closed the connection after 'HTTP/1.1 200'"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nshort", "it closed the connection within the answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: nine\r\n\r\n", "its Content-Length is not a number"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nshort",
            "it closed the connection within the answer",
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nsize\r\n", "the length of a chunk is not a number"),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nlong\r\n0\r\n\r\n",
            "a chunk of its answer is longer than it says",
        ),
    ] {
        assert_eq!(answered(answer, &[]), says(1, &format!("AT: {line}")));
    }
    let huge = [&b"HTTP/1.1 200 OK\r\nX: "[..], &vec![b'x'; 100_000]].concat();
    assert_eq!(answered(&huge, &[]), says(1, "AT: its header is longer than 64 KiB"));
    let long = [&b"garbage"[..], &[b'!'; 1000], b"\n"].concat();
    assert!(answered(&long, &[]).1.len() < 300, "a line is cut");
}

/// Runs a probe with half a second of time, and checks that it keeps to it.
fn in_time(arguments: &[&str]) -> (i32, String) {
    let start = Instant::now();
    let (mode, rest) = arguments.split_first().unwrap();
    let verdict = verdict(&[&[*mode, "--timeout", "500ms"], rest].concat());
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(400) && took < Duration::from_secs(4), "{took:?}");
    verdict
}

#[test]
fn the_time_is_for_all_of_it() {
    let drip = |answer: &'static [u8]| {
        server(move |stream| {
            request(stream);
            for byte in answer.iter().chain(std::iter::repeat(&b'.')) {
                if stream.write_all(&[*byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        })
    };
    let silent = server(|_| std::thread::sleep(Duration::from_secs(60)));
    let slow_body = drip(b"HTTP/1.1 200 \n\n");
    let slow_head = drip(b"HTTP/1.1 200 OK\r\nX: ");
    for (address, missing) in [
        (&silent, "no answer within 500ms"),
        (&slow_head, "no answer within 500ms"),
        (&slow_body, "no end of the answer within 500ms"),
    ] {
        assert_eq!(in_time(&["http", &format!("http://{address}/")]), says(1, &format!("{address}: {missing}")));
    }
    let expected = says(1, &format!("{silent}: no expected answer within 500ms"));
    assert_eq!(in_time(&["tcp", &silent, "--send", "PING", "--expect", "PONG"]), expected);
    // Nothing accepts, and no more connections can wait.
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = full.local_addr().unwrap();
    let connect = || TcpStream::connect_timeout(&address, Duration::from_millis(300)).ok();
    let waiting: Vec<TcpStream> = std::iter::from_fn(connect).take(10_000).collect();
    assert!((1..10_000).contains(&waiting.len()));
    let expected = says(1, &format!("{address}: no connection within 500ms"));
    assert_eq!(in_time(&["tcp", &address.to_string()]), expected);
    assert_eq!(in_time(&["http", &format!("http://{address}/")]), expected);
    let expected = says(1, "/bin/sleep: still running after 500ms, killed");
    assert_eq!(in_time(&["exec", "--", "/bin/sleep", "61.5"]), expected);
    let runs = |entry: &std::fs::DirEntry| {
        std::fs::read(entry.path().join("cmdline")).is_ok_and(|line| line == b"/bin/sleep\x0061.5\0")
    };
    assert!(!std::fs::read_dir("/proc").unwrap().any(|entry| runs(&entry.unwrap())), "it was killed");
    let chatty = in_time(&["exec", "--", "/bin/sh", "-c", "echo starting up; while :; do echo x; done"]);
    assert_eq!(chatty, says(1, "/bin/sh: still running after 500ms, killed: starting up"));
}

#[test]
fn tcp_says_and_hears() {
    let redis = server(|stream| {
        let mut said = [0; 6];
        if stream.read_exact(&mut said).is_err() {
            return;
        }
        let answer: &[u8] = if &said == b"PING\r\n" { b"+PONG\r\n" } else { b"-NOAUTH Authentication required.\r\n" };
        for half in answer.chunks(3) {
            stream.write_all(half).unwrap();
            stream.flush().unwrap();
        }
    });
    let ping = |text: &str| verdict(&["tcp", &redis, "--send", text, "--expect", "+PONG"]);
    assert_eq!(verdict(&["tcp", &redis]), says(0, ""));
    assert_eq!(ping(r"PING\r\n"), says(0, ""));
    assert_eq!(ping(r"\x50\x49NG\x0d\n"), says(0, ""));
    let refused = "expected '+PONG', but it closed the connection after '-NOAUTH Authentication required.'";
    assert_eq!(ping(r"QUIT\r\n"), says(1, &format!("{redis}: {refused}")));
    let endless = server(|stream| while stream.write_all(&[b'.'; 4096]).is_ok() {});
    let said = verdict(&["tcp", &endless, "--expect", "+PONG"]);
    assert!(said.0 == 1 && said.1.contains("expected '+PONG' in the first 64 KiB of '....") && said.1.len() < 800);

    let env = Env::new();
    let socket = env.path("s");
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || listener.incoming().for_each(|stream| stream.unwrap().write_all(b"a\tb").unwrap()));
    let target = format!("unix:{}", socket.display());
    assert_eq!(verdict(&["tcp", &target, "--expect", r"a\tb"]), says(0, ""));
    let none = format!("unix:{}", env.path("none").display());
    assert_eq!(verdict(&["tcp", &none]), says(1, &format!("{none}: No such file or directory")));
}

#[test]
fn nobody_listens() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for host in ["127.0.0.1", "localhost"] {
        assert_eq!(
            verdict(&["tcp", &format!("{host}:{port}")]),
            says(1, &format!("{host}:{port}: Connection refused"))
        );
    }
    let url = format!("http://127.0.0.1:{port}/?token=s3cret");
    assert_eq!(verdict(&["http", &url]), says(1, &format!("127.0.0.1:{port}: Connection refused")));
    let Ok(six) = TcpListener::bind("[::1]:0") else { return };
    let port = six.local_addr().unwrap().port();
    for host in ["[::1]", "localhost"] {
        assert_eq!(verdict(&["tcp", &format!("{host}:{port}")]), says(0, ""));
    }
}

#[test]
fn exec_goes_by_the_exit_code_and_passes_the_first_line_on() {
    let sh = |options: &[&str], script: &str| verdict(&[&["exec"], options, &["--", "/bin/sh", "-c", script]].concat());
    assert_eq!(sh(&[], "exit 0"), says(0, ""));
    assert_eq!(sh(&[], "echo; echo accepting connections >&2; echo more"), says(0, "accepting connections"));
    assert_eq!(sh(&[], "echo no response; exit 2"), says(1, "/bin/sh: exit code 2: no response"));
    assert_eq!(sh(&[], "kill -9 $$"), says(1, "/bin/sh: ended by signal 9"));
    assert_eq!(sh(&["--contains", "two"], "echo one; echo two"), says(0, "one"));
    assert_eq!(sh(&["--contains", "three"], "echo one"), says(1, "/bin/sh: its output lacks 'three': one"));
    assert_eq!(sh(&[], "read line || echo no input"), says(0, "no input"));
    // What it starts may outlive it, with its output still open.
    let start = Instant::now();
    assert_eq!(sh(&[], "echo up; sleep 20 &"), says(0, "up"));
    assert!(start.elapsed() < Duration::from_secs(4));
    assert_eq!(verdict(&["exec", "--", "/no/such"]), says(1, "/no/such: No such file or directory"));
    assert_eq!(verdict(&["exec", "--", "/etc/passwd"]), says(1, "/etc/passwd: Permission denied"));
}

#[test]
fn wrong_arguments_are_told_without_what_they_may_hide() {
    for (arguments, sentence) in [
        (&[][..], "expected http, tcp or exec"),
        (&["ping"], "'ping': expected http, tcp or exec"),
        (&["http"], "http: expected a URL"),
        (&["http", "https://a/?s3cret"], "the URL does not begin with http://"),
        (&["http", "http://u:s3cret@127.0.0.1/"], "the URL has a user name, which is not supported"),
        (&["http", "http://127.0.0.1/a b"], "the URL has a space or a control character"),
        (&["http", "http://unix:/s3cret"], "the URL has no host"),
        (&["http", "http://127.0.0.1/", "s3cret"], "http: an argument too many"),
        (&["http", "http://redis/?s3cret"], "'redis': write an IP address or localhost; no name is looked up"),
        (&["http", "http://::1/"], "'::1': an IPv6 address is written in brackets"),
        (&["http", "http://[::1]x/"], "'[::1]x': expected [ADDRESS]:PORT"),
        (&["http", "http://127.0.0.1:99999/"], "'127.0.0.1:99999': the port is not a number up to 65535"),
        (&["http", "--send", "x", "http://127.0.0.1/"], "http has no option --send"),
        (&["http", "http://127.0.0.1/", "--status"], "--status needs a value"),
        (
            &["http", "--status", "299-200", "http://127.0.0.1/"],
            "--status '299-200': expected a status or a range of them, like 200 or 200-299",
        ),
        (&["tcp"], "tcp: expected HOST:PORT or unix:PATH"),
        (&["tcp", "127.0.0.1"], "'127.0.0.1': expected HOST:PORT or unix:PATH"),
        (&["tcp", "--timeout", "5", "127.0.0.1:1"], "--timeout '5': expected a time like 500ms, 5s or 2m"),
        (&["tcp", "--timeout", "0s", "127.0.0.1:1"], "--timeout '0s': expected a time like 500ms, 5s or 2m"),
        (
            &["tcp", "--send", r"\q", "127.0.0.1:1"],
            r"--send and --expect know \r \n \t \0 \\ and \xNN after a backslash",
        ),
        (&["exec", "--wait", "soon", "--", "true"], "--wait 'soon': expected a time like 500ms, 5s or 2m"),
        (&["exec", "/bin/true"], "exec: an argument too many; write -- before the program"),
        (&["exec", "--"], "exec: expected -- PROGRAM"),
    ] {
        let said = probe(arguments);
        assert_eq!(said.stderr, format!("windlass-probe: {sentence}; see windlass-probe --help\n"));
        assert_eq!((said.code, said.stdout.as_str()), (2, ""));
    }
    let help = probe(&["--help"]);
    assert!(help.code == 0 && help.stdout.starts_with("Ask a service whether it works\n"), "{help:?}");
    assert!(help.stdout.lines().all(|line| line.len() <= 120));
}

#[test]
fn it_waits_for_a_service_that_is_not_there_yet() {
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let start = Instant::now();
    let refused = says(1, &format!("{free}: Connection refused"));
    assert_eq!(verdict(&["tcp", &free.to_string(), "--wait", "1s"]), refused);
    assert!(start.elapsed() >= Duration::from_secs(1), "{:?}", start.elapsed());
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(1500));
        TcpListener::bind(free).unwrap().incoming().for_each(drop);
    });
    let start = Instant::now();
    assert_eq!(verdict(&["tcp", &free.to_string(), "--wait=1m"]), (0, String::new()));
    assert!((1..10).contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
    // A program is started anew each time.
    let folder = tempfile::tempdir().unwrap();
    let count = folder.path().join("count");
    let script = format!("echo x >>{0}; test $(wc -l <{0}) -ge 3", count.display());
    assert_eq!(verdict(&["exec", "--wait", "1m", "--", "sh", "-c", &script]), (0, String::new()));
    assert_eq!(std::fs::read_to_string(count).unwrap(), "x\nx\nx\n");
}

#[test]
fn it_is_one_small_file_that_needs_no_other() {
    let bytes = std::fs::read(program()).unwrap();
    assert!(bytes.len() < 1_500_000, "{} bytes", bytes.len());
    let headers = run_ok(Command::new("readelf").args(["--wide", "--program-headers", "--dynamic"]).arg(program()));
    assert!(headers.contains("LOAD") && !headers.contains("INTERP") && !headers.contains("NEEDED"), "{headers}");

    let podman = Podman::new();
    let files = json!({ "/bin/windlass-probe": program() });
    let spec = json!({ "kind": "image", "name": "probe", "tag": "1", "content": { "files": files } });
    let image = podman.build("probe", &spec);
    let archive = podman.env.path("probe.tar").display().to_string();
    podman.env.ok(["export", image.to_str().unwrap(), "--output", &archive]);
    podman.run(&["load", "--input", &archive]);
    let run = |arguments: &[&str]| {
        let fixed = [
            "run",
            "--rm",
            "--network=none",
            "--read-only",
            "--user=4321:4321",
            "localhost/probe:1",
            "/bin/windlass-probe",
        ];
        let output = podman.command("podman").args(fixed).args(arguments).output().unwrap();
        let said = Said::of(&output);
        (said.code, said.stdout + &said.stderr)
    };
    assert_eq!(run(&["tcp", "localhost:1"]), says(1, "localhost:1: Connection refused"));
    assert_eq!(run(&["http", "http://127.0.0.1:1/"]), says(1, "127.0.0.1:1: Connection refused"));
    let itself = ["exec", "--contains", "Usage", "--", "/bin/windlass-probe", "--help"];
    assert_eq!(run(&itself), says(0, "Ask a service whether it works"));
    assert_eq!(run(&["exec", "--", "sh"]), says(1, "sh: No such file or directory"));
}
