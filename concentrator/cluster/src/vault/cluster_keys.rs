//! The cluster's own keys, from the key file that is the same on every node.

use crypto::{Random as _, Secret, SystemRandom, open_blob, seal_blob};

use super::{KEY, SALT, VaultError};

/// Keys of a file: one is in use, others are being replaced.
pub const MAX_CLUSTER_KEYS: usize = 8;
/// Version of wrapped secrets.
const VERSION: u8 = 1;
const ID: usize = 8;

/// The name of a cluster key, which says nothing about it. Written as 16 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ClusterKeyId(pub [u8; ID]);

impl std::fmt::Display for ClusterKeyId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// What is wrong with a key file. Says the line and never what is in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// No line has a key.
    #[error("the key file has no key: make one with `openssl rand -hex 32`")]
    Empty,
    /// Something else than a key.
    #[error("line {0} of the key file is not a key of 64 hexadecimal digits")]
    Line(usize),
    /// A key that nobody drew by chance.
    #[error("the key in line {0} of the key file is not random")]
    Weak(usize),
    /// Two lines with one key.
    #[error("line {0} of the key file repeats a key")]
    Repeated(usize),
    /// More than [`MAX_CLUSTER_KEYS`].
    #[error("the key file has more than {MAX_CLUSTER_KEYS} keys")]
    TooMany,
}

struct ClusterKey {
    id: ClusterKeyId,
    wrapping: Secret,
}

/// The keys of the key file, the newest first: that one wraps, all unwrap. They are used for nothing else, so that a key
/// can be replaced while the cluster works.
pub struct ClusterKeys {
    keys: Vec<ClusterKey>,
}

impl std::fmt::Debug for ClusterKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.keys.iter().map(|key| key.id.to_string()))
            .finish()
    }
}

impl ClusterKeys {
    /// Reads the contents of a key file: a key a line, as 64 hexadecimal digits, the newest first. Empty lines and what
    /// follows a `#` do not count.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(file: &Secret) -> Result<Self, KeyFileError> {
        let mut keys: Vec<ClusterKey> = Vec::new();
        for (index, line) in file.expose().split(|octet| *octet == b'\n').enumerate() {
            let number = index + 1;
            let text = line.split(|octet| *octet == b'#').next().unwrap_or_default();
            let text = text.trim_ascii();
            if text.is_empty() {
                continue;
            }
            let key = from_hex(text).ok_or(KeyFileError::Line(number))?;
            let octets = key.expose();
            if octets.iter().collect::<std::collections::BTreeSet<_>>().len() < 8 {
                return Err(KeyFileError::Weak(number));
            }
            let key = ClusterKey::new(&key);
            if keys.iter().any(|known| known.id == key.id) {
                return Err(KeyFileError::Repeated(number));
            }
            if keys.len() == MAX_CLUSTER_KEYS {
                return Err(KeyFileError::TooMany);
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return Err(KeyFileError::Empty);
        }
        Ok(Self { keys })
    }

    /// The names of the keys, the newest first.
    pub fn ids(&self) -> impl Iterator<Item = ClusterKeyId> {
        self.keys.iter().map(|key| key.id)
    }

    /// Whether a wrapped secret is wrapped by the newest key.
    pub fn is_current(&self, wrapped: &[u8]) -> bool {
        let newest = self.keys.first().map(|key| key.id);
        Self::wrapped_by(wrapped).is_some() && Self::wrapped_by(wrapped) == newest
    }

    /// The key that a secret is wrapped by.
    pub fn wrapped_by(wrapped: &[u8]) -> Option<ClusterKeyId> {
        let (version, rest) = wrapped.split_first()?;
        let (id, _) = rest.split_first_chunk::<ID>()?;
        (*version == VERSION).then_some(ClusterKeyId(*id))
    }

    /// `version (1) ‖ key (8) ‖ salt (16) ‖ nonce (12) ‖ ciphertext ‖ tag (16)` under the newest key.
    pub(crate) fn wrap(&self, context: &[u8], secret: Secret) -> Result<Vec<u8>, VaultError> {
        let key = self.keys.first().ok_or(VaultError::Seal)?;
        let mut salt = [0; SALT];
        SystemRandom.fill(&mut salt);
        let head = [&[VERSION], key.id.0.as_slice(), &salt].concat();
        let sealed = seal_blob(
            &key.salted(&salt),
            &[context, &head].concat(),
            secret.expose(),
            &mut SystemRandom,
        );
        Ok([head, sealed.map_err(|_| VaultError::Seal)?].concat())
    }

    pub(crate) fn unwrap(&self, context: &[u8], wrapped: &[u8]) -> Result<Secret, VaultError> {
        let (head, sealed) = wrapped
            .split_at_checked(1 + ID + SALT)
            .ok_or(VaultError::TooShort)?;
        let (version, rest) = head.split_first().ok_or(VaultError::TooShort)?;
        if *version != VERSION {
            return Err(VaultError::Version(*version));
        }
        let (id, salt) = rest.split_first_chunk::<ID>().ok_or(VaultError::TooShort)?;
        let id = ClusterKeyId(*id);
        let key = self.keys.iter().find(|key| key.id == id);
        let key = key.ok_or(VaultError::UnknownClusterKey(id))?;
        open_blob(&key.salted(salt), &[context, head].concat(), sealed).map_err(|_| VaultError::NotAuthentic)
    }
}

impl ClusterKey {
    fn new(key: &Secret) -> Self {
        let of = |label: &[u8]| crypto::Prf::HmacSha256.compute(key.expose(), &[label]);
        let mut id = [0; ID];
        let name = of(b"name of the cluster key");
        for (to, from) in id.iter_mut().zip(name.expose()) {
            *to = *from;
        }
        Self {
            id: ClusterKeyId(id),
            wrapping: of(b"wrapping"),
        }
    }

    fn salted(&self, salt: &[u8]) -> Secret {
        crypto::Prf::HmacSha256.compute(self.wrapping.expose(), &[salt])
    }
}

fn from_hex(text: &[u8]) -> Option<Secret> {
    if text.len() != 2 * KEY {
        return None;
    }
    let digit = |octet: &u8| {
        char::from(*octet)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let (pairs, _) = text.as_chunks::<2>();
    let octets: Option<Vec<u8>> = pairs
        .iter()
        .map(|[high, low]| Some(digit(high)? << 4 | digit(low)?))
        .collect();
    octets.map(Secret::from)
}
