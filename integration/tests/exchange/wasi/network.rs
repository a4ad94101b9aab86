//! What the host's network is in these tests: the optimizer and the provider, as the script has them.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Frame};
use hyper::header::{HeaderMap, HeaderName, HeaderValue};
use hyper::{Request, Response};
use integration::{Answer, Headers};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use super::AUTHORITY;
use crate::proxy::Id;

/// The provider's answer: its head, and what its body will be.
pub type Provided = Result<Response<Pieces>, Error>;

/// Something to be taken in by the proxy.
pub enum Happened {
    /// Something reached the provider.
    Provider(Id, Out),
    /// The provider's answer is waited for.
    Asked(Id, oneshot::Sender<Provided>),
    /// A callout came.
    Called(Id, Headers, Vec<u8>, oneshot::Sender<Answer>),
    /// Something reached the client.
    Client(Id, Out),
    /// The component wrote a line, about a call or none.
    Logged(Option<Id>, String),
}

/// A part of a message on its way out.
pub enum Out {
    Head(Headers, bool),
    Piece(Vec<u8>),
    Trailers(Headers),
    End,
    Broke,
}

/// A body whose pieces come when the script says so.
pub struct Pieces(UnboundedReceiver<Result<Frame<Bytes>, Error>>);

/// Where the script puts them.
pub struct Sender(UnboundedSender<Result<Frame<Bytes>, Error>>);

/// A body, and where its pieces are put.
pub fn pieces() -> (Sender, Pieces) {
    let (sender, receiver) = unbounded_channel();
    (Sender(sender), Pieces(receiver))
}

impl Sender {
    pub fn data(&self, piece: &[u8]) {
        let _ = self.0.send(Ok(Frame::data(Bytes::copy_from_slice(piece))));
    }

    pub fn trailers(&self, trailers: &Headers) {
        let _ = self.0.send(Ok(Frame::trailers(map(trailers))));
    }

    pub fn breaks(&self) {
        let _ = self.0.send(Err(Error::ConnectionTerminated));
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        self.0.poll_recv(context)
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_closed() && self.0.is_empty()
    }
}

/// Headers without the pseudo-headers.
pub fn map(headers: &Headers) -> HeaderMap {
    let real = headers.iter().filter(|(name, _)| !name.starts_with(':'));
    real.map(|(name, value)| {
        (HeaderName::try_from(name).unwrap(), HeaderValue::try_from(value).unwrap())
    })
    .collect()
}

fn headers<const N: usize>(pseudo: [(&str, &str); N], map: &HeaderMap) -> Headers {
    let mut headers = Headers::from(pseudo);
    for (name, value) in map {
        headers.add(name.as_str(), value.as_bytes());
    }
    headers
}

/// The head of an answer, as the client receives it.
pub fn answer_head<B>(response: &Response<B>) -> Headers {
    headers([(":status", response.status().as_str())], response.headers())
}

/// Passes a body on to whoever looks, piece by piece.
pub async fn watch<B>(mut body: B, look: impl Fn(Out))
where
    B: Body<Data = Bytes> + Unpin,
{
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return look(Out::Broke) };
        match frame.into_data() {
            Ok(data) => look(Out::Piece(data.to_vec())),
            Err(frame) => {
                let trailers = frame.into_trailers().unwrap_or_default();
                return look(Out::Trailers(headers([], &trailers)));
            }
        }
    }
    look(Out::End);
}

/// The network of one instance.
#[derive(Clone)]
pub struct Network {
    pub starting: Arc<AtomicUsize>,
    pub optimizer_is_alive: Arc<AtomicBool>,
    pub happened: UnboundedSender<Happened>,
}

impl Network {
    /// The same for the instance that is being made.
    pub fn of_the_starting(&self) -> Self {
        let id = self.starting.load(Ordering::Relaxed);
        Self { starting: Arc::new(id.into()), ..self.clone() }
    }

    fn tell(&self, happened: Happened) {
        let _ = self.happened.send(happened);
    }

    async fn optimizer(
        self,
        id: Id,
        request: Request<WasiBody>,
    ) -> Result<Response<WasiBody>, Error> {
        if !self.optimizer_is_alive.load(Ordering::Relaxed) {
            return Err(Error::ConnectionRefused);
        }
        let path = request.uri().path_and_query().map_or("", |path| path.as_str());
        let pseudo =
            [(":method", request.method().as_str()), (":path", path), (":authority", AUTHORITY)];
        let mut headers = headers(pseudo, request.headers());
        headers.remove("host");
        let body = request.into_body().collect().await?.to_bytes();
        let (answer, answered) = oneshot::channel();
        self.tell(Happened::Called(id, headers, body.to_vec(), answer));
        let whole = |body: Vec<u8>| Full::from(body).map_err(|never| match never {}).boxed_unsync();
        match answered.await {
            Ok(Answer::Http { status, headers, body }) => {
                let mut response = Response::new(whole(body));
                *response.status_mut() = status.try_into().unwrap();
                *response.headers_mut() = map(&headers);
                Ok(response)
            }
            Ok(Answer::Reset) => {
                let (sender, body) = pieces();
                sender.breaks();
                Ok(Response::new(body.boxed_unsync()))
            }
            Ok(Answer::Refused) | Err(_) => Err(Error::ConnectionRefused),
            Ok(Answer::Timeout) => std::future::pending().await,
        }
    }

    async fn provider(
        self,
        id: Id,
        request: Request<WasiBody>,
    ) -> Result<Response<WasiBody>, Error> {
        let path = request.uri().path_and_query().map_or("", |path| path.as_str());
        let authority = request.uri().authority().map_or("", |authority| authority.as_str());
        let pseudo =
            [(":method", request.method().as_str()), (":path", path), (":authority", authority)];
        let mut headers = headers(pseudo, request.headers());
        headers.remove("host");
        let end = request.body().is_end_stream();
        self.tell(Happened::Provider(id, Out::Head(headers, end)));
        let (provide, provided) = oneshot::channel();
        self.tell(Happened::Asked(id, provide));
        let network = self.clone();
        let look = move |out| network.tell(Happened::Provider(id, out));
        tokio::spawn(watch(request.into_body(), look));
        let response = provided.await.unwrap_or(Err(Error::ConnectionTerminated))?;
        Ok(response.map(BodyExt::boxed_unsync))
    }
}

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Network {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Io,
    ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, Io), Error>> + Send> {
        let (network, id) = (self.clone(), self.starting.load(Ordering::Relaxed));
        Box::new(async move {
            let to = request.uri().authority().map(|authority| authority.as_str());
            let response = match to == Some(AUTHORITY) {
                true => network.optimizer(id, request).await?,
                false => network.provider(id, request).await?,
            };
            Ok((response, Box::new(async { Ok(()) }) as Io))
        })
    }
}
