//! A program that says whether the service works.

use std::io::{self, Read};
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::{BODY, first_line, holds, plain};

/// How often is looked whether a program has ended, and how long its last words are waited for.
const TICK: Duration = Duration::from_millis(10);
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Runs a program; the first line of its output.
pub(crate) fn exec(mut command: Command, contains: Option<&str>, timeout: Duration) -> Result<String, String> {
    let deadline = Instant::now() + timeout;
    let name = command.get_program().display().to_string();
    let failed = |message: &str, output: &[u8]| match first_line(output) {
        line if line.is_empty() => Err(format!("{name}: {message}")),
        line => Err(format!("{name}: {message}: {line}")),
    };
    let (mut reader, writer) = io::pipe().map_err(plain)?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().map_err(plain)?).stderr(writer);
    let (sender, chunks) = sync_channel(0);
    let thread = thread::Builder::new().spawn(move || {
        let mut chunk = [0; 4096];
        while let Ok(got @ 1..) = reader.read(&mut chunk) {
            if sender.send(chunk[..got].to_vec()).is_err() {
                return;
            }
        }
    });
    thread.map_err(plain)?;
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => return failed(&plain(error), b""),
    };
    // It holds the pipe open.
    drop(command);
    let mut output: Vec<u8> = Vec::new();
    let mut keep = |chunk: Vec<u8>| output.extend(chunk.into_iter().take(BODY - output.len()));
    let status = loop {
        match chunks.recv_timeout(TICK) {
            Ok(chunk) => keep(chunk),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => thread::sleep(TICK),
        }
        if let Some(status) = child.try_wait().map_err(plain)? {
            break Some(status);
        }
        if Instant::now() >= deadline {
            break None;
        }
    };
    let Some(status) = status else {
        drop(child.kill());
        // A process that is not waited for stays in the process table.
        (0..50).take_while(|_| matches!(child.try_wait(), Ok(None))).for_each(|_| thread::sleep(TICK));
        return failed(&format!("still running after {timeout:?}, killed"), &output);
    };
    // What it started may hold the pipe open, or write without end.
    let last_words = deadline.min(Instant::now() + LAST_WORDS);
    while Instant::now() < last_words
        && let Ok(chunk) = chunks.recv_timeout(last_words.saturating_duration_since(Instant::now()))
    {
        keep(chunk);
    }
    match (status.code(), contains) {
        (Some(0), Some(text)) if !holds(&output, text.as_bytes()) => {
            failed(&format!("its output lacks '{text}'"), &output)
        }
        (Some(0), _) => Ok(first_line(&output)),
        (Some(code), _) => failed(&format!("exit code {code}"), &output),
        (None, _) => failed(&format!("ended by signal {}", status.signal().unwrap_or(0)), &output),
    }
}
