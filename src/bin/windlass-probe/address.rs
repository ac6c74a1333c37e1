//! Where the service listens.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;

use crate::plain;

/// Where something listens: `unix:PATH`, or the sockets that a text stands for.
#[derive(Clone)]
pub(crate) struct Address {
    pub(crate) text: String,
    sockets: Vec<SocketAddr>,
}

/// A connection of either kind.
pub(crate) trait ProbeStream: Read + Write {}
impl<T: Read + Write> ProbeStream for T {}

impl Address {
    pub(crate) fn parse(text: &str, default_port: Option<u16>) -> Result<Self, String> {
        if text.starts_with("unix:") {
            return Ok(Self { text: text.to_owned(), sockets: Vec::new() });
        }
        let wrong = |why: &str| format!("'{text}': {why}");
        let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((host, rest)) if rest.is_empty() || rest.starts_with(':') => (host, rest.strip_prefix(':')),
            Some(_) => return Err(wrong("expected [ADDRESS]:PORT")),
            None if text.matches(':').count() > 1 => return Err(wrong("an IPv6 address is written in brackets")),
            None => text.split_once(':').map_or((text, None), |(host, port)| (host, Some(port))),
        };
        let port = match (port, default_port) {
            (Some(port), _) => port.parse().map_err(|_| wrong("the port is not a number up to 65535"))?,
            (None, Some(port)) => port,
            (None, None) => return Err(wrong("expected HOST:PORT or unix:PATH")),
        };
        let hosts: Vec<IpAddr> = match host {
            "localhost" => vec![Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
            host => vec![host.parse().map_err(|_| wrong("write an IP address or localhost; no name is looked up"))?],
        };
        let sockets = hosts.into_iter().map(|host| SocketAddr::new(host, port)).collect();
        Ok(Self { text: text.to_owned(), sockets })
    }

    pub(crate) fn connect(&self) -> Result<Box<dyn ProbeStream>, String> {
        if let Some(path) = self.text.strip_prefix("unix:") {
            return UnixStream::connect(path).map(|stream| Box::new(stream) as _).map_err(plain);
        }
        let mut first = None;
        for socket in &self.sockets {
            match TcpStream::connect(socket) {
                Ok(stream) => return Ok(Box::new(stream)),
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.map_or_else(String::new, plain))
    }
}

/// Where to connect to, and what to ask for. No message has more of it than the host: the rest may hold a secret.
pub(crate) fn parse_url(url: &str) -> Result<(Address, String), String> {
    let rest = url.strip_prefix("http://").ok_or("the URL does not begin with http://")?;
    if rest.contains(|c: char| c.is_ascii_control() || c == ' ') {
        return Err("the URL has a space or a control character".to_owned());
    }
    let (host, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    if host.contains('@') {
        return Err("the URL has a user name, which is not supported".to_owned());
    }
    let path = path.split('#').next().unwrap_or_default();
    let slash = if path.starts_with('/') { "" } else { "/" };
    if host.starts_with("unix:") {
        return Err("the URL has no host".to_owned());
    }
    Ok((Address::parse(host, Some(80))?, format!("{slash}{path}")))
}
