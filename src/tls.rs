//! The certificate and key of `edge.tls`: read, checked, and made into the settings of TLS connections.

use std::{
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use chrono::{DateTime, SecondsFormat, Utc};
use rustls::{
    Error as TlsError, InconsistentKeys, ServerConfig,
    crypto::ring,
    pki_types::{
        CertificateDer, PrivateKeyDer,
        pem::{Error as PemError, PemObject},
    },
    sign::CertifiedKey,
};

/// The largest file that is read; a chain of ten certificates has about 20 KiB.
const LARGEST: u64 = 1 << 20;

/// The files of `edge.tls`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Files {
    /// The server's certificate, then the intermediate ones, as PEM.
    pub cert: PathBuf,
    /// The private key of the first certificate, as PEM: PKCS#8, PKCS#1 or SEC1, without a passphrase.
    pub key: PathBuf,
}

impl Files {
    /// `None` unless both are named.
    pub fn of(cert: &Path, key: &Path) -> Option<Files> {
        let are_named = !cert.as_os_str().is_empty() && !key.as_os_str().is_empty();
        are_named.then(|| Files {
            cert: cert.to_owned(),
            key: key.to_owned(),
        })
    }
}

/// Time of change, inode and size of both files.
pub type Versions = [Option<(SystemTime, u64, u64)>; 2];

/// A certificate with its key, valid now.
#[derive(Clone)]
pub struct Pair {
    /// TLS 1.2 and 1.3, HTTP/1.1, no client certificates.
    pub config: Arc<ServerConfig>,
    /// When the first certificate of the chain to expire does.
    pub expires: DateTime<Utc>,
}

/// The setting that a problem belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    Cert,
    Key,
}

impl Setting {
    /// The key in `config.toml`.
    pub fn key(self) -> &'static str {
        match self {
            Setting::Cert => "edge.tls.cert",
            Setting::Key => "edge.tls.key",
        }
    }
}

/// The reason that a pair cannot be used. Contains nothing of the files' content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unusable {
    pub setting: Setting,
    /// Begins with the file's name.
    pub reason: String,
}

impl std::fmt::Display for Unusable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.setting.key(), self.reason)
    }
}

impl Files {
    /// Reads the files and checks that they belong together and are valid now. Blocks on the files.
    ///
    /// # Errors
    /// The first problem found: a file that cannot be read or has no such content, a certificate outside of its period, a
    /// key of another certificate.
    pub fn load(&self) -> Result<Pair, Unusable> {
        self.load_at(Utc::now())
    }

    /// Changes when a file is replaced. `None` for a file that cannot be read.
    pub fn versions(&self) -> Versions {
        [&self.cert, &self.key].map(|file| {
            let found = std::fs::metadata(file).ok()?;
            Some((found.modified().ok()?, found.ino(), found.len()))
        })
    }

    fn load_at(&self, now: DateTime<Utc>) -> Result<Pair, Unusable> {
        let chain = self.chain()?;
        let expires = self.expires(&chain, now)?;
        let key = self.private_key()?;
        let provider = ring::default_provider();
        let certified = CertifiedKey::from_der(chain, key, &provider)
            .map_err(|error| self.unusable(Setting::Key, &unusable_key(&error)))?;
        let settings = ServerConfig::builder_with_provider(Arc::new(provider))
            .with_safe_default_protocol_versions()
            .map_err(|error| self.unusable(Setting::Cert, &error.to_string()))?
            .with_no_client_auth();
        let mut config =
            settings.with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(certified)));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        // Tickets instead of a cache in memory: clients that reconnect skip the signature.
        config.ticketer = ring::Ticketer::new()
            .map_err(|error| self.unusable(Setting::Key, &error.to_string()))?;
        config.send_tls13_tickets = 1;
        Ok(Pair {
            config: Arc::new(config),
            expires,
        })
    }

    fn unusable(&self, setting: Setting, what: &str) -> Unusable {
        let file = match setting {
            Setting::Cert => &self.cert,
            Setting::Key => &self.key,
        };
        Unusable {
            setting,
            reason: format!("{} {what}", file.display()),
        }
    }

    fn chain(&self) -> Result<Vec<CertificateDer<'static>>, Unusable> {
        let wrong = |what: &str| self.unusable(Setting::Cert, what);
        let text = read(&self.cert).map_err(|what| wrong(&what))?;
        let chain: Result<Vec<_>, PemError> = CertificateDer::pem_slice_iter(&text).collect();
        match chain {
            Ok(chain) if chain.is_empty() => Err(wrong("contains no certificate in PEM")),
            Ok(chain) => Ok(chain),
            Err(_) => Err(wrong("is not valid PEM")),
        }
    }

    fn private_key(&self) -> Result<PrivateKeyDer<'static>, Unusable> {
        let wrong = |what: &str| self.unusable(Setting::Key, what);
        let text = read(&self.key).map_err(|what| wrong(&what))?;
        PrivateKeyDer::from_pem_slice(&text).map_err(|error| {
            wrong(match error {
                PemError::NoItemsFound => {
                    "contains no private key in PEM; one with a passphrase cannot be used"
                }
                _ => "is not valid PEM",
            })
        })
    }

    /// The end of the period in which all certificates of the chain are valid.
    fn expires(
        &self,
        chain: &[CertificateDer<'_>],
        now: DateTime<Utc>,
    ) -> Result<DateTime<Utc>, Unusable> {
        let wrong = |what: String| self.unusable(Setting::Cert, &what);
        let mut expires = DateTime::<Utc>::MAX_UTC;
        for der in chain {
            let (_, parsed) = x509_parser::parse_x509_certificate(der)
                .map_err(|_| wrong("contains a certificate that cannot be read".to_owned()))?;
            let time = |at: x509_parser::time::ASN1Time| {
                DateTime::from_timestamp(at.timestamp(), 0).unwrap_or(DateTime::<Utc>::MAX_UTC)
            };
            let period = parsed.validity();
            let (from, to) = (time(period.not_before), time(period.not_after));
            if to < now {
                return Err(wrong(format!("expired on {}", shown(to))));
            }
            if from > now {
                let now = shown(now);
                let from = shown(from);
                return Err(wrong(format!(
                    "is not valid before {from}; this machine's clock says {now}"
                )));
            }
            expires = expires.min(to);
        }
        Ok(expires)
    }
}

/// RFC 3339 in seconds.
pub fn shown(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    let cannot = |error: std::io::Error| format!("cannot be read: {error}");
    match std::fs::metadata(file).map_err(cannot)? {
        found if !found.is_file() => Err("is not a file".to_owned()),
        found if found.len() > LARGEST => Err(format!("has more than {LARGEST} bytes")),
        _ => std::fs::read(file).map_err(cannot),
    }
}

fn unusable_key(error: &TlsError) -> String {
    match error {
        TlsError::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "is not the key of the certificate in edge.tls.cert".to_owned()
        }
        error => format!("cannot be used: {error}"),
    }
}

#[cfg(test)]
mod tests;
