//! How users prove who they are, and how they check the gateway: the answers to `ike`'s authentication jobs.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail, ensure};
use crypto::Secret;
use crypto::cert::{Certificate, Purpose, TrustAnchors};
use crypto::sign::PrivateKey;
use ike::Identity;
use ike::auth::{
    self, AuthJob, AuthPhase, AuthVerdict, LocalCredential, LocalKind, PeerCredential, Rejection,
};
use ike::wire::NotifyType;

use crate::cli;
use crate::plan::fill;

/// The proofs of all users.
#[derive(Clone, Debug)]
pub struct Credentials {
    own: Own,
    /// Authorities of the gateway's certificate; without them the gateway must know the pre-shared secret.
    anchors: Option<Arc<TrustAnchors>>,
}

#[derive(Clone, Debug)]
enum Own {
    /// Pattern of the secret.
    Psk(Secret),
    /// Patterns of the files.
    Certificate { chain: String, key: String },
}

/// The proof of one user.
#[derive(Clone, Debug)]
pub struct Credential {
    local: LocalCredential,
    peer: Peer,
}

#[derive(Clone, Debug)]
enum Peer {
    Psk(Secret),
    Certificate(Arc<TrustAnchors>),
}

impl Credentials {
    /// One secret for all: for tests.
    #[must_use]
    pub fn psk(secret: &str) -> Self {
        Self {
            own: Own::Psk(Secret::from(secret.as_bytes())),
            anchors: None,
        }
    }

    /// What the command line says.
    ///
    /// # Errors
    /// No proof at all, or a file that cannot be read.
    pub fn new(options: &cli::Identity) -> Result<Self> {
        let anchors = match &options.ca {
            None => None,
            Some(path) => {
                let text = std::fs::read(path).with_context(|| path.display().to_string())?;
                let certificates =
                    Certificate::from_pem(&text).with_context(|| path.display().to_string())?;
                ensure!(!certificates.is_empty(), "{}: no certificate", path.display());
                Some(Arc::new(TrustAnchors::new(certificates)))
            }
        };
        let own = match (&options.psk, &options.psk_file, &options.cert, &options.key) {
            (Some(secret), ..) => Own::Psk(Secret::from(secret.as_bytes())),
            (_, Some(path), ..) => {
                let text = std::fs::read(path).with_context(|| path.display().to_string())?;
                let text = text.strip_suffix(b"\n").unwrap_or(&text);
                Own::Psk(Secret::from(text.strip_suffix(b"\r").unwrap_or(text)))
            }
            (_, _, Some(chain), Some(key)) => Own::Certificate {
                chain: chain.clone(),
                key: key.clone(),
            },
            _ => bail!("one of --psk, --psk-file and --cert with --key is needed"),
        };
        Ok(Self { own, anchors })
    }

    /// SHA-1 of the public keys of the authorities that the gateway's certificate may come from.
    #[must_use]
    pub fn certreq(&self) -> Vec<[u8; 20]> {
        self.anchors
            .as_ref()
            .map(|anchors| anchors.spki_sha1s())
            .unwrap_or_default()
    }

    /// The proof of one user.
    ///
    /// # Errors
    /// A certificate or key that cannot be read.
    pub fn of(&self, number: u32, id: Identity) -> Result<Credential> {
        let (kind, secret) = match &self.own {
            Own::Psk(pattern) => {
                let secret = match std::str::from_utf8(pattern.expose()) {
                    Ok(text) if text.contains("{user}") => Secret::from(fill(text, number).into_bytes()),
                    _ => pattern.clone(),
                };
                (LocalKind::Psk(secret.clone()), Some(secret))
            }
            Own::Certificate { chain, key } => {
                let (chain, key) = (fill(chain, number), fill(key, number));
                let text = std::fs::read(&chain).with_context(|| chain.clone())?;
                let certificates = Certificate::from_pem(&text).with_context(|| chain.clone())?;
                let text = std::fs::read(&key).with_context(|| key.clone())?;
                let key = PrivateKey::from_pem(&text).with_context(|| key.clone())?;
                let chain = certificates.iter().map(|c| c.der().to_vec()).collect();
                (
                    LocalKind::Key {
                        key: Arc::new(key),
                        chain,
                    },
                    None,
                )
            }
        };
        let peer = match (&self.anchors, secret) {
            (Some(anchors), _) => Peer::Certificate(Arc::clone(anchors)),
            (None, Some(secret)) => Peer::Psk(secret),
            (None, None) => bail!("--ca is needed to check the gateway"),
        };
        Ok(Credential {
            local: LocalCredential { id, kind },
            peer,
        })
    }
}

impl Credential {
    /// Answers a job of this user's IKE SA.
    #[must_use]
    pub fn answer(&self, job: &AuthJob) -> AuthVerdict {
        let answer = match job.phase {
            AuthPhase::Local => auth::sign(job, &self.local).map(AuthVerdict::Signed),
            AuthPhase::Peer => {
                let credential = match &self.peer {
                    Peer::Psk(secret) => PeerCredential::Psk(secret.clone()),
                    Peer::Certificate(anchors) => PeerCredential::Certificates {
                        anchors: Arc::clone(anchors),
                        now_unix: unix_now(),
                        purpose: Purpose::Server,
                    },
                };
                auth::verify(job, &credential).map(AuthVerdict::Verified)
            }
            AuthPhase::Both => {
                return reject("a responder's job".to_owned());
            }
        };
        answer.unwrap_or_else(|failure| reject(failure.to_string()))
    }
}

fn reject(reason: String) -> AuthVerdict {
    AuthVerdict::Reject(Rejection {
        notify: NotifyType::AUTHENTICATION_FAILED,
        reason,
    })
}

fn unix_now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}
