//! Whom to trust over TLS. wasmtime's own requests trust Mozilla's authorities, and it has no setting for others.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::client::conn::http1::handshake;
use hyper::http::uri::{PathAndQuery, Scheme};
use hyper::{Request, Response, Uri};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use wasmtime_wasi::runtime::spawn;
use wasmtime_wasi_http::io::TokioIo;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks, default_hooks};

/// Sends requests to servers whose certificates trusted authorities have signed.
#[derive(Clone)]
pub struct Authorities(TlsConnector);

impl Authorities {
    /// Mozilla's, and those in a file of certificates (PEM).
    ///
    /// # Errors
    /// The file cannot be read, or holds something that is no certificate of an authority.
    pub fn beside_mozillas(file: &str) -> Result<Self, wasmtime::Error> {
        let mut roots = RootCertStore { roots: webpki_roots::TLS_SERVER_ROOTS.into() };
        for certificate in CertificateDer::pem_file_iter(file)? {
            roots.add(certificate?)?;
        }
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Ok(Self(Arc::new(config).into()))
    }

    async fn send(self, request: Request<WasiBody>, options: RequestOptions) -> Sent {
        let to = request.uri().authority().ok_or(Error::HttpRequestUriInvalid)?;
        let (host, port) = (to.host(), to.port_u16().unwrap_or(443));
        let host = host.trim_matches(['[', ']']).to_owned();
        let name = ServerName::try_from(host.clone())?;
        let connected = async {
            let tcp = TcpStream::connect((host, port)).await.map_err(Error::Connect)?;
            self.0.connect(name, tcp).await.map_err(Error::Tls)
        };
        let connected =
            within(options.connect_timeout, Error::ConnectionTimeout, connected).await?;
        let (mut sender, connection) = handshake(TokioIo::new(connected)).await?;
        // It ends with whoever holds it.
        let connection = spawn(async { connection.await.map_err(Error::from) });
        let answer =
            async { sender.send_request(of_the_origin(request)).await.map_err(Error::from) };
        let answer =
            within(options.first_byte_timeout, Error::ConnectionReadTimeout, answer).await?;
        Ok((
            answer.map(|body| body.map_err(Error::from).boxed_unsync()),
            Box::new(connection) as Io,
        ))
    }
}

type Io = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Result<(Response<WasiBody>, Io), Error>;

impl WasiHttpHooks for Authorities {
    fn send_request(
        &mut self,
        request: Request<WasiBody>,
        options: Option<RequestOptions>,
        io: Io,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        match request.uri().scheme() == Some(&Scheme::HTTPS) {
            true => Box::new(self.clone().send(request, options.unwrap_or_default())),
            false => default_hooks().send_request(request, options, io),
        }
    }
}

async fn within<T>(
    time: Option<Duration>,
    too_late: Error,
    what: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    match time {
        Some(time) => timeout(time, what).await.map_err(|_| too_late)?,
        None => what.await,
    }
}

/// The request as a server expects it, which is no proxy: its target is a path (RFC 9112, section 3.2.1).
fn of_the_origin(mut request: Request<WasiBody>) -> Request<WasiBody> {
    let path = request.uri().path_and_query().cloned();
    *request.uri_mut() = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    request
}
