//! A registry that misbehaves as a script tells it to: std sockets, no library that would refuse to.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// What it was asked.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// With its query.
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Asked {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// What it answers.
#[derive(Debug, Clone)]
pub(crate) struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    /// Only so many bytes of the body are sent; then the connection ends.
    cut: Option<usize>,
    /// Between the pieces of the body; each is `piece` bytes.
    pause: Duration,
    piece: usize,
    /// Whether the client is told how long the body is.
    sized: bool,
}

impl Answer {
    pub(crate) fn new(status: u16) -> Self {
        let (headers, body, pause) = (Vec::new(), Vec::new(), Duration::ZERO);
        Self { status, headers, body, cut: None, pause, piece: usize::MAX, sized: true }
    }

    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::new(200).body(body)
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    pub(crate) fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Ends the connection after so many bytes of the body.
    pub(crate) fn cut_after(mut self, bytes: usize) -> Self {
        self.cut = Some(bytes);
        self
    }

    /// Does not say how long the body is: it ends with the connection.
    pub(crate) fn unsized_body(mut self) -> Self {
        self.sized = false;
        self
    }

    /// Sends `piece` bytes of the body, waits, sends the next.
    pub(crate) fn slowly(mut self, piece: usize, pause: Duration) -> Self {
        (self.piece, self.pause) = (piece, pause);
        self
    }
}

type Script = dyn Fn(usize, &Asked) -> Answer + Send + Sync;

/// The server; dropped, it is gone.
pub(crate) struct BadRegistry {
    /// `127.0.0.1:PORT`.
    pub(crate) host: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    connections: Arc<AtomicUsize>,
    done: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl BadRegistry {
    /// Answers the request of this number, from 0 on, with what the script says.
    pub(crate) fn start(script: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let script: Arc<Script> = Arc::new(script);
        let (asked, done) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let connections = Arc::new(AtomicUsize::new(0));
        let (log, ended, accepted) = (Arc::clone(&asked), Arc::clone(&done), Arc::clone(&connections));
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let (Ok(stream), script, log, ended) = (stream, script.clone(), Arc::clone(&log), Arc::clone(&ended))
                else {
                    continue;
                };
                accepted.fetch_add(1, Ordering::SeqCst);
                // A client that goes away in the middle is not a failure of the server.
                std::thread::spawn(move || serve(&stream, &*script, &log, &ended));
            }
        });
        Self { host, asked, connections, done, thread: Some(thread) }
    }

    /// How many connections there were.
    pub(crate) fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    /// All requests so far, in order.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// `METHOD path` of all requests so far.
    pub(crate) fn log(&self) -> Vec<String> {
        self.asked().iter().map(|asked| format!("{} {}", asked.method, asked.path)).collect()
    }
}

impl Drop for BadRegistry {
    fn drop(&mut self) {
        self.done.store(true, Ordering::SeqCst);
        drop(TcpStream::connect(&self.host));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn serve(stream: &TcpStream, script: &Script, log: &Mutex<Vec<Asked>>, ended: &AtomicBool) -> Option<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let asked = read_request(&mut reader)?;
        if ended.load(Ordering::SeqCst) {
            return None;
        }
        let number = {
            let mut log = log.lock().unwrap();
            log.push(asked.clone());
            log.len() - 1
        };
        let answer = script(number, &asked);
        let length = answer.body.len();
        let mut head = format!("HTTP/1.1 {} Scripted\r\n", answer.status);
        for (name, value) in &answer.headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        if answer.sized {
            head.extend(["content-length: ", &length.to_string(), "\r\n"]);
        }
        head.push_str("\r\n");
        let mut writer = stream;
        writer.write_all(head.as_bytes()).ok()?;
        if asked.method == "HEAD" {
            continue;
        }
        let sent = &answer.body[..answer.cut.unwrap_or(length).min(length)];
        for piece in sent.chunks(answer.piece.min(length.max(1))) {
            writer.write_all(piece).ok()?;
            if !answer.pause.is_zero() && !ended.load(Ordering::SeqCst) {
                std::thread::sleep(answer.pause);
            }
        }
        if answer.cut.is_some() || !answer.sized {
            drop(stream.shutdown(std::net::Shutdown::Both));
            return None;
        }
    }
}

fn read_request(reader: &mut BufReader<&TcpStream>) -> Option<Asked> {
    let mut line = String::new();
    if reader.read_line(&mut line).ok()? == 0 {
        return None;
    }
    let mut words = line.split_whitespace().map(str::to_owned);
    let (method, path) = (words.next()?, words.next()?);
    let mut headers = Vec::new();
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).ok()?;
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut asked = Asked { method, path, headers, body: Vec::new() };
    let length = asked.header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    asked.body.resize(length, 0);
    reader.read_exact(&mut asked.body).ok()?;
    Some(asked)
}
