//! Waiting for the host, and the streams of bodies.

use std::cell::RefCell;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_lite::future;
use wasip2::clocks::monotonic_clock::subscribe_duration;
use wasip2::http::types::{Fields, IncomingBody, OutgoingBody};
use wasip2::io::poll::{Pollable, poll};
use wasip2::io::streams::{InputStream, OutputStream, StreamError};

/// How much of a body is taken over from the host at a time, in bytes.
const MAX_CHUNK_BYTES: u64 = 64 * 1024;

/// How often the host is asked whether somebody is still there.
const LOOK_EVERY: Duration = Duration::from_millis(500);

thread_local! {
    /// What the running future waits for. A pollable must not outlive what it is of.
    static WAITING: RefCell<Vec<Weak<Pollable>>> = const { RefCell::new(Vec::new()) };
}

/// Runs a future to its end. The host wakes it whenever something that it waits for is ready.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    let mut future = pin!(future);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        if let Poll::Ready(value) = future.as_mut().poll(&mut context) {
            return value;
        }
        let waiting: Vec<_> =
            WAITING.take().into_iter().filter_map(|pollable| pollable.upgrade()).collect();
        let waiting: Vec<_> = waiting.iter().map(|pollable| &**pollable).collect();
        if !waiting.is_empty() {
            poll(&waiting);
        }
    }
}

/// Waits until the host says that it is ready.
pub async fn ready(pollable: &Rc<Pollable>) {
    future::poll_fn(|_| {
        if pollable.ready() {
            return Poll::Ready(());
        }
        WAITING.with_borrow_mut(|waiting| waiting.push(Rc::downgrade(pollable)));
        Poll::Pending
    })
    .await;
}

/// Waits for so long.
pub async fn sleep(time: Duration) {
    let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
    ready(&Rc::new(subscribe_duration(nanoseconds))).await;
}

/// `answer`, while `other` runs beside it, to its end or not.
pub async fn beside<T>(answer: impl Future<Output = T>, other: impl Future<Output = ()>) -> T {
    let other = async {
        other.await;
        future::pending().await
    };
    future::or(answer, other).await
}

/// Futures that run beside one another.
#[derive(Default)]
pub struct Together<'f>(Vec<Pin<Box<dyn Future<Output = ()> + 'f>>>);

impl<'f> Together<'f> {
    /// One more.
    pub fn add(&mut self, future: impl Future<Output = ()> + 'f) {
        self.0.push(Box::pin(future));
    }

    /// Runs them; waits until all have ended.
    pub async fn end(&mut self) {
        future::poll_fn(|context| {
            self.0.retain_mut(|future| future.as_mut().poll(context).is_pending());
            if self.0.is_empty() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }
}

/// The other side of a stream is gone.
#[derive(Clone, Copy, Debug)]
pub struct Broken;

/// A body that arrives. The order of the members is that in which they must be dropped.
pub struct Reader {
    pollable: Rc<Pollable>,
    stream: InputStream,
    body: IncomingBody,
    /// It ended, and how.
    over: Option<Result<(), Broken>>,
}

impl Reader {
    pub fn new(body: IncomingBody) -> Option<Self> {
        let stream = body.stream().ok()?;
        Some(Self { pollable: Rc::new(stream.subscribe()), stream, body, over: None })
    }

    /// The next bytes; `None` at the end.
    pub async fn read(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        loop {
            if let Some(how) = self.over {
                return how.map(|()| None);
            }
            match self.stream.read(MAX_CHUNK_BYTES) {
                Ok(chunk) if chunk.is_empty() => ready(&self.pollable).await,
                Ok(chunk) => return Ok(Some(chunk)),
                Err(StreamError::Closed) => self.over = Some(Ok(())),
                Err(StreamError::LastOperationFailed(_)) => self.over = Some(Err(Broken)),
            }
        }
    }

    /// Whether it broke off, as far as it was read.
    pub const fn is_broken(&self) -> bool {
        matches!(self.over, Some(Err(Broken)))
    }

    /// The trailers of a body that was read to its end.
    pub async fn trailers(self) -> Option<Fields> {
        drop(self.pollable);
        drop(self.stream);
        let trailers = IncomingBody::finish(self.body);
        ready(&Rc::new(trailers.subscribe())).await;
        trailers.get()?.ok()?.ok()?
    }
}

/// A body that is sent; one that is dropped unfinished breaks off. The order of the
/// members is that in which they must be dropped.
pub struct Writer {
    pollable: Rc<Pollable>,
    stream: OutputStream,
    body: OutgoingBody,
}

impl Writer {
    pub fn new(body: OutgoingBody) -> Option<Self> {
        let stream = body.write().ok()?;
        Some(Self { pollable: Rc::new(stream.subscribe()), stream, body })
    }

    /// Sends bytes, as fast as they are taken.
    pub async fn write(&self, mut bytes: &[u8]) -> Result<(), Broken> {
        while !bytes.is_empty() {
            let room = self.stream.check_write().map_err(|_| Broken)?;
            if room == 0 {
                ready(&self.pollable).await;
                continue;
            }
            let room = usize::try_from(room).unwrap_or(usize::MAX).min(bytes.len());
            let (now, later) = bytes.split_at_checked(room).unwrap_or((bytes, &[]));
            self.stream.write(now).map_err(|_| Broken)?;
            bytes = later;
        }
        self.stream.flush().map_err(|_| Broken)
    }

    /// Waits until nobody takes it any more. Hosts say so only when they are asked.
    pub async fn gone(&self) {
        while self.stream.check_write().is_ok() {
            sleep(LOOK_EVERY).await;
        }
    }

    /// Ends the body.
    pub fn finish(self, trailers: Option<Fields>) {
        drop(self.pollable);
        drop(self.stream);
        // Whoever reads it knows by its length if something is missing.
        let _ = OutgoingBody::finish(self.body, trailers);
    }
}
