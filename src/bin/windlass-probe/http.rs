//! One request over HTTP/1.1, and as much of the answer as is asked for.

use std::io::{BufRead, BufReader, Read, Write};
use std::ops::RangeInclusive;
use std::sync::mpsc::Sender;

use crate::address::Address;
use crate::{BODY, Event, HEAD, first_line, holds, plain};

pub(crate) fn http(
    at: &Address,
    path: &str,
    status: &RangeInclusive<u16>,
    contains: Option<&str>,
    tell: &Sender<Event>,
) -> Result<(), String> {
    let mut stream = at.connect()?;
    drop(tell.send(Event::Missing("no answer")));
    let request = format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: */*\r\nConnection: close\r\n\r\n", at.text);
    stream.write_all(request.as_bytes()).map_err(plain)?;
    let mut input = BufReader::new(stream);
    let mut left = HEAD;
    let (found, length) = loop {
        let (found, length) = head(&mut input, &mut left)?;
        // 100 to 199 announce the answer; after 101 no answer comes.
        if found == 101 || found >= 200 {
            break (found, length);
        }
    };
    if !status.contains(&found) {
        return Err(format!("status {found}"));
    }
    drop(tell.send(Event::Missing("no end of the answer")));
    let body = if matches!(found, 101 | 204 | 304) { Vec::new() } else { body(&mut input, length)? };
    match contains {
        Some(text) if !holds(&body, text.as_bytes()) => Err(format!("status {found}, but the answer lacks '{text}'")),
        _ => Ok(()),
    }
}

/// How the end of a body is known.
enum Length {
    Bytes(usize),
    Chunked,
    UntilClosed,
}

/// The lines before a body: the status, and how long the body is.
fn head(input: &mut impl BufRead, left: &mut usize) -> Result<(u16, Length), String> {
    let first = line(input, left)?;
    let mut words = first.split(' ');
    let speaks = words.next().is_some_and(|version| version.starts_with("HTTP/1."));
    let status =
        words.next().and_then(|word| word.parse().ok()).filter(|status| speaks && (100..=599).contains(status));
    let status = status.ok_or_else(|| format!("this is not HTTP: '{}'", first_line(first.as_bytes())))?;
    let mut length = Length::UntilClosed;
    loop {
        let line = line(input, left)?;
        if line.is_empty() {
            return Ok((status, length));
        }
        let (name, value) = line.split_once(':').unwrap_or_default();
        let value = value.trim();
        if name.eq_ignore_ascii_case("transfer-encoding") {
            length = Length::Chunked;
        } else if name.eq_ignore_ascii_case("content-length") && !matches!(length, Length::Chunked) {
            length = Length::Bytes(value.parse().map_err(|_| "its Content-Length is not a number")?);
        }
    }
}

/// One line without its end; `left` is what the lines together may still have.
fn line(input: &mut impl BufRead, left: &mut usize) -> Result<String, String> {
    let mut line = Vec::new();
    input.take(*left as u64).read_until(b'\n', &mut line).map_err(plain)?;
    *left -= line.len();
    match line.strip_suffix(b"\n") {
        Some(line) => Ok(String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(line)).into_owned()),
        None if *left == 0 => Err(format!("its header is longer than {} KiB", HEAD >> 10)),
        None if line.is_empty() => Err("it closed the connection without an answer".to_owned()),
        None => Err(format!("it closed the connection after '{}'", first_line(&line))),
    }
}

/// The body, or its first MiB.
fn body(input: &mut impl BufRead, length: Length) -> Result<Vec<u8>, String> {
    let mut body = Vec::new();
    let early = || "it closed the connection within the answer".to_owned();
    let mut read = |input: &mut dyn BufRead, size: usize| {
        let wanted = size.min(BODY - body.len());
        let got = input.take(wanted as u64).read_to_end(&mut body).map_err(plain)?;
        Ok::<_, String>((got == wanted, body.len() == BODY))
    };
    match length {
        Length::UntilClosed => drop(read(input, BODY)?),
        Length::Bytes(size) => drop(read(input, size)?.0.then_some(()).ok_or_else(early)?),
        Length::Chunked => loop {
            let size = line(input, &mut { HEAD })?;
            let size = size.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).map_err(|_| "the length of a chunk is not a number")?;
            let (whole, full) = read(input, size)?;
            if !whole {
                return Err(early());
            }
            if size == 0 || full {
                break;
            }
            if !line(input, &mut { HEAD })?.is_empty() {
                return Err("a chunk of its answer is longer than it says".to_owned());
            }
        },
    }
    Ok(body)
}
