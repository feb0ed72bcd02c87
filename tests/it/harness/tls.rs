//! Certificates for an edge, clients that trust them, and a relay that lets any client of the tests speak TLS.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::{
    ClientConfig, RootCertStore, SupportedProtocolVersion,
    crypto::ring,
    pki_types::{CertificateDer, ServerName},
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{DEADLINE, deployment::authority};

/// A certificate authority.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate for 127.0.0.1 and its key, as PEM.
#[derive(Clone)]
pub struct Pair {
    pub cert: String,
    pub key: String,
    pub der: CertificateDer<'static>,
}

impl Pair {
    /// Writes both files; returns their paths.
    pub fn write(&self, dir: &Path) -> (PathBuf, PathBuf) {
        let (cert, key) = (dir.join("cert.pem"), dir.join("key.pem"));
        std::fs::write(&cert, &self.cert).expect("the directory can be written");
        std::fs::write(&key, &self.key).expect("the directory can be written");
        (cert, key)
    }
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Authority {
            issuer: CertifiedIssuer::self_signed(params, key).expect("a certificate"),
        }
    }

    /// A pair that is valid until the first day of `year`.
    pub fn issue(&self, year: i32) -> Pair {
        let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
        let mut params = CertificateParams::new(names).expect("names");
        // By default the names of both would be equal, and OpenSSL would take it for self-signed.
        params.distinguished_name.push(DnType::CommonName, "edge");
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = KeyPair::generate().expect("a key");
        let cert = params.signed_by(&key, &self.issuer).expect("a certificate");
        Pair {
            cert: cert.pem(),
            key: key.serialize_pem(),
            der: cert.der().clone(),
        }
    }

    /// The authority's own certificate, as PEM.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A REST client that trusts only this authority.
    pub fn http(&self) -> reqwest::Client {
        let _ = ring::default_provider().install_default();
        let root = reqwest::Certificate::from_der(self.issuer.der()).expect("a certificate");
        reqwest::Client::builder()
            .timeout(DEADLINE)
            .no_proxy()
            .tls_certs_only([root])
            .build()
            .expect("a client can be made")
    }

    /// The TLS settings of a client that trusts only this authority.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).expect("a root");
        let provider = Arc::new(ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .expect("the versions are supported")
            .with_root_certificates(roots)
            .with_no_client_auth();
        Arc::new(config)
    }

    /// Opens a TLS connection to the edge at `url`.
    pub async fn connect(&self, url: &str) -> std::io::Result<TlsStream<TcpStream>> {
        connect(self.client(rustls::ALL_VERSIONS), &authority(url)).await
    }

    /// Listens on plain TCP, and forwards each connection over TLS to the edge at `url`.
    pub async fn relay(&self, url: &str) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (client, target) = (self.client(rustls::ALL_VERSIONS), authority(url));
        let accepting = tokio::spawn(async move {
            while let Ok((mut plain, _)) = listener.accept().await {
                let (client, target) = (client.clone(), target.clone());
                tokio::spawn(async move {
                    if let Ok(mut stream) = connect(client, &target).await {
                        let _ = tokio::io::copy_bidirectional(&mut plain, &mut stream).await;
                    }
                });
            }
        });
        Relay { address, accepting }
    }
}

pub async fn connect(
    client: Arc<ClientConfig>,
    address: &str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tcp = TcpStream::connect(address).await?;
    let name = ServerName::try_from("127.0.0.1").expect("an address");
    let connecting = TlsConnector::from(client).connect(name, tcp);
    match tokio::time::timeout(DEADLINE, connecting).await {
        Ok(connected) => connected,
        Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
    }
}

/// Ends when it is dropped.
pub struct Relay {
    pub address: SocketAddr,
    accepting: JoinHandle<()>,
}

impl Relay {
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
