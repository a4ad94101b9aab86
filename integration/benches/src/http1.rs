//! Reading HTTP/1.1 messages from a connection that stays open.

use std::io::{self, Error, ErrorKind};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const READ_BYTES: usize = 256 * 1024;
const MAX_HEADERS: usize = 64;

/// A connection and what has been read from it but not been used.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    /// The unused part of `buffer`.
    start: usize,
    end: usize,
}

/// The beginning of a message.
#[derive(Debug)]
pub struct Head {
    /// Of a request, else empty.
    pub target: String,
    /// Of an answer, else 0.
    pub status: u16,
    framing: Framing,
}

#[derive(Clone, Copy, Debug)]
enum Framing {
    Length(usize),
    Chunked,
}

fn bad(what: &'static str) -> Error {
    Error::new(ErrorKind::InvalidData, what)
}

impl Connection {
    /// Takes a connection over.
    ///
    /// # Errors
    /// The socket refuses an option.
    pub fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; READ_BYTES], start: 0, end: 0 })
    }

    /// Connects to a port of this machine.
    ///
    /// # Errors
    /// Nobody listens there.
    pub async fn to(port: u16) -> io::Result<Self> {
        Self::new(TcpStream::connect(("127.0.0.1", port)).await?)
    }

    /// Writes all of `bytes`.
    ///
    /// # Errors
    /// The connection broke.
    pub async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await
    }

    /// Reads the next request's head; `None` where the connection ended before it.
    ///
    /// # Errors
    /// The connection broke, or what came is no request.
    pub async fn request(&mut self) -> io::Result<Option<Head>> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut request = httparse::Request::new(&mut headers);
            let parsed = request.parse(&self.buffer[self.start..self.end]);
            if let httparse::Status::Complete(size) = parsed.map_err(|_| bad("no request"))? {
                let target = request.path.unwrap_or_default().to_owned();
                let framing = framing(request.headers)?;
                self.start += size;
                return Ok(Some(Head { target, status: 0, framing }));
            }
            if !self.more().await? {
                let clean = self.start == self.end;
                return if clean { Ok(None) } else { Err(ErrorKind::UnexpectedEof.into()) };
            }
        }
    }

    /// Reads the next answer's head.
    ///
    /// # Errors
    /// The connection broke, or what came is no answer.
    pub async fn response(&mut self) -> io::Result<Head> {
        loop {
            let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
            let mut response = httparse::Response::new(&mut headers);
            let parsed = response.parse(&self.buffer[self.start..self.end]);
            if let httparse::Status::Complete(size) = parsed.map_err(|_| bad("no answer"))? {
                let status = response.code.unwrap_or(0);
                let framing = framing(response.headers)?;
                self.start += size;
                return Ok(Head { target: String::new(), status, framing });
            }
            self.need().await?;
        }
    }

    /// Reads the body that belongs to `head`, part by part; its length.
    ///
    /// # Errors
    /// The connection broke, or the body is framed badly.
    pub async fn body(&mut self, head: &Head, mut part: impl FnMut(&[u8])) -> io::Result<usize> {
        match head.framing {
            Framing::Length(length) => {
                self.bytes(length, &mut part).await?;
                Ok(length)
            }
            Framing::Chunked => {
                let mut total = 0;
                loop {
                    let size = self.chunk_size().await?;
                    self.bytes(size, &mut part).await?;
                    total += size;
                    // The line's end; after the last chunk it stands where trailers could.
                    self.bytes(2, &mut |_| {}).await?;
                    if size == 0 {
                        return Ok(total);
                    }
                }
            }
        }
    }

    async fn chunk_size(&mut self) -> io::Result<usize> {
        loop {
            let parsed = httparse::parse_chunk_size(&self.buffer[self.start..self.end]);
            if let httparse::Status::Complete((used, size)) =
                parsed.map_err(|_| bad("no chunk's size"))?
            {
                self.start += used;
                return usize::try_from(size).map_err(|_| bad("a chunk's size"));
            }
            self.need().await?;
        }
    }

    async fn bytes(&mut self, mut count: usize, part: &mut impl FnMut(&[u8])) -> io::Result<()> {
        while count > 0 {
            if self.start == self.end {
                self.need().await?;
            }
            let now = count.min(self.end - self.start);
            part(&self.buffer[self.start..self.start + now]);
            self.start += now;
            count -= now;
        }
        Ok(())
    }

    async fn need(&mut self) -> io::Result<()> {
        if self.more().await? { Ok(()) } else { Err(ErrorKind::UnexpectedEof.into()) }
    }

    /// Reads what there is; false at the connection's end.
    async fn more(&mut self) -> io::Result<bool> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.end == self.buffer.len() {
            if self.start == 0 {
                return Err(bad("a head that is too long"));
            }
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let count = self.stream.read(&mut self.buffer[self.end..]).await?;
        self.end += count;
        Ok(count > 0)
    }
}

fn framing(headers: &[httparse::Header<'_>]) -> io::Result<Framing> {
    let find = |name: &str| headers.iter().find(|header| header.name.eq_ignore_ascii_case(name));
    if find("transfer-encoding").is_some() {
        return Ok(Framing::Chunked);
    }
    let Some(header) = find("content-length") else { return Ok(Framing::Length(0)) };
    let text = std::str::from_utf8(header.value).map_err(|_| bad("content-length"))?;
    text.trim().parse().map(Framing::Length).map_err(|_| bad("content-length"))
}
