//! The wire: names, sockets, and how long they are waited for.
//!
//! `ureq` has limits for a read and for a phase, but a server that lets a byte trickle now and then holds it for as long as
//! it likes, and a signal reaches it only when a read ends. So every call into it is made [`within`] a limit, and all that it
//! waits for lies here: it polls, a tenth of a second at a time, and looks at the limit and at the signal in between.
//!
//! The limit of a call cannot be handed to `ureq`, which keeps connections for later calls. It calls back on the thread that
//! called it, so the limit is kept by that thread.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, connect, recv, socket_with, sockopt};
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{DefaultResolver, ResolvedSocketAddrs, Resolver};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Error, Timeout};

use super::options::SLOWEST;
use crate::disk::progress::Progress;

/// How long is waited before the limit and the signal are looked at again.
const SLICE: Duration = Duration::from_millis(100);

/// What the call that this thread is in may take.
#[derive(Clone)]
struct Call {
    limit: Duration,
    until: Instant,
    /// Bytes that went out since the limit was last counted from the start.
    sent: u64,
    stop: Arc<AtomicBool>,
}

thread_local! {
    static CALL: RefCell<Option<Call>> = const { RefCell::new(None) };
}

/// Makes a call into `ureq` that takes no longer than `limit`, and ends soon after the job is told to stop. While it sends,
/// the limit counts from the last bytes that went out, as long as these are not next to nothing.
pub(super) fn within<T>(limit: Duration, progress: &Progress, call: impl FnOnce() -> T) -> T {
    /// Gives back what there was, also if the call panics.
    struct FormerCall(Option<Call>);
    impl Drop for FormerCall {
        fn drop(&mut self) {
            CALL.set(self.0.take());
        }
    }
    let now = Call { limit, until: Instant::now() + limit, sent: 0, stop: progress.stop_flag() };
    let _before = FormerCall(CALL.replace(Some(now)));
    call()
}

/// What is sent next was waited for on this side: that is not the server's time.
pub(super) fn not_counted() {
    CALL.with_borrow_mut(|call| {
        if let Some(call) = call {
            call.until = Instant::now() + call.limit;
            call.sent = 0;
        }
    });
}

/// Counts bytes that went out.
fn sent(bytes: usize) {
    CALL.with_borrow_mut(|call| {
        if let Some(call) = call {
            call.sent += bytes as u64;
            if call.sent >= SLOWEST.saturating_mul(call.limit.as_secs().max(1)) {
                call.until = Instant::now() + call.limit;
                call.sent = 0;
            }
        }
    });
}

/// Calls `ready` with short times to wait until it has something, the call is over, or `ureq`'s own timeout is.
fn wait<T>(timeout: NextTimeout, mut ready: impl FnMut(Duration) -> Result<Option<T>, Error>) -> Result<T, Error> {
    let own = timeout.not_zero().map(|left| Instant::now() + *left);
    loop {
        let (stopped, until) = CALL.with_borrow(|call| {
            let call = call.as_ref();
            (call.is_some_and(|call| call.stop.load(Relaxed)), call.map(|call| call.until))
        });
        if stopped {
            // Not of kind Interrupted: what is interrupted is tried again by those between.
            return Err(io::Error::new(ErrorKind::ConnectionAborted, "stopped by a signal").into());
        }
        let now = Instant::now();
        if until.is_some_and(|until| until <= now) {
            return Err(Error::Timeout(Timeout::Global));
        }
        if own.is_some_and(|own| own <= now) {
            return Err(Error::Timeout(timeout.reason));
        }
        let left = until.into_iter().chain(own).map(|end| end - now).min().unwrap_or(SLICE);
        // At least a millisecond: less would be none to the system.
        if let Some(found) = ready(left.clamp(Duration::from_millis(1), SLICE))? {
            return Ok(found);
        }
    }
}

/// Waits for a socket.
fn polled(socket: impl AsFd, flags: PollFlags, slice: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(&socket, flags)];
    let slice = Timespec { tv_sec: 0, tv_nsec: i64::from(slice.subsec_nanos()) };
    match poll(&mut fds, Some(&slice)) {
        Err(Errno::INTR) => Ok(false),
        found => Ok(found? > 0),
    }
}

/// Makes connections, and finds the addresses of hosts.
#[derive(Debug, Clone, Copy)]
pub(super) struct Connections;

impl Resolver for Connections {
    fn resolve(&self, uri: &Uri, _: &Config, timeout: NextTimeout) -> Result<ResolvedSocketAddrs, Error> {
        let place = uri.scheme().zip(uri.authority());
        let host = place.and_then(|(scheme, authority)| DefaultResolver::host_and_port(scheme, authority));
        let host = host.ok_or_else(|| Error::BadUri(uri.to_string()))?;
        // The system's resolver cannot be told to stop, so it has a thread, which is left to itself then.
        let (found, answer) = sync_channel(1);
        std::thread::spawn(move || found.send(host.to_socket_addrs()).ok());
        let addresses = wait(timeout, |slice| match answer.recv_timeout(slice) {
            Ok(addresses) => Ok(Some(addresses)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Error::HostNotFound),
        })?;
        let mut all = self.empty();
        // As many as that list has room for.
        addresses.map_err(|_| Error::HostNotFound)?.take(16).for_each(|address| all.push(address));
        if all.is_empty() { Err(Error::HostNotFound) } else { Ok(all) }
    }
}

impl<In: Transport> Connector<In> for Connections {
    type Out = Either<In, Socket<TcpStream>>;

    fn connect(&self, details: &ConnectionDetails<'_>, chained: Option<In>) -> Result<Option<Self::Out>, Error> {
        if let Some(proxied) = chained {
            return Ok(Some(Either::A(proxied)));
        }
        let mut failed = None;
        let mut timeout = details.timeout;
        let begin = Instant::now();
        for (tried, address) in details.addrs.iter().enumerate() {
            // What is left of the time is shared by the addresses that are left, so that a dead one does not take it all.
            if let Some(whole) = details.timeout.not_zero() {
                let left = whole.saturating_sub(begin.elapsed());
                let addresses = u32::try_from(details.addrs.len() - tried).unwrap_or(1);
                timeout.after = (left / addresses).max(Duration::from_millis(10)).into();
            }
            match open(*address, timeout) {
                Ok(stream) => {
                    let config = details.config;
                    let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
                    return Ok(Some(Either::B(Socket::new(stream, buffers))));
                }
                Err(error @ Error::Timeout(Timeout::Global)) => return Err(error),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or(Error::HostNotFound))
    }
}

/// A connection that does not block.
fn open(address: SocketAddr, timeout: NextTimeout) -> Result<TcpStream, Error> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, None).map_err(io::Error::from)?;
    match connect(&socket, &address) {
        Ok(()) | Err(Errno::INPROGRESS | Errno::INTR) => {}
        Err(error) => return Err(io::Error::from(error).into()),
    }
    wait(timeout, |slice| Ok(polled(&socket, PollFlags::OUT, slice)?.then_some(())))?;
    sockopt::socket_error(&socket).and_then(|result| result).map_err(io::Error::from)?;
    let stream = TcpStream::from(socket);
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// An open connection.
#[derive(Debug)]
pub(super) struct Socket<S> {
    stream: S,
    buffers: LazyBuffers,
}

impl<S> Socket<S> {
    /// One over a stream that does not block.
    pub(super) const fn new(stream: S, buffers: LazyBuffers) -> Self {
        Self { stream, buffers }
    }
}

impl<S> Transport for Socket<S>
where
    S: AsFd + std::fmt::Debug + Send + Sync + 'static,
    for<'s> &'s S: Read + Write,
{
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let mut left = &self.buffers.output()[..amount];
        let mut stream = &self.stream;
        while !left.is_empty() {
            let written = wait(timeout.for_write(), |slice| match stream.write(left) {
                Ok(written) => Ok(Some(written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    polled(stream, PollFlags::OUT, slice)?;
                    Ok(None)
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => Ok(None),
                Err(error) => Err(error.into()),
            })?;
            sent(written);
            left = &left[written..];
        }
        Ok(())
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let room = self.buffers.input_append_buf();
        let mut stream = &self.stream;
        let read = wait(timeout.for_read(), |slice| match stream.read(room) {
            Ok(read) => Ok(Some(read)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {
                polled(stream, PollFlags::IN, slice)?;
                Ok(None)
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error.into()),
        })?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        // Bytes that were not asked for are as bad as an end.
        matches!(recv(&self.stream, &mut [0; 1], RecvFlags::PEEK), Err(Errno::AGAIN))
    }
}
