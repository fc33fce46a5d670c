//! Encryption at rest: an authenticated envelope around the bytes of sensitive objects, and the key file.
//!
//! The key file holds one key per line, `<id> <base64 of 32 bytes>`; the first line seals, every line opens.
//! To rotate, put a new line on top and restart: everything is sealed again with the new key, after which the
//! old line may go. Keys never appear in errors, logs or `Debug`.

use std::{
    fmt, fs,
    io::{self, Write as _},
    os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use chacha20poly1305::{
    AeadCore as _, Key, KeyInit as _, XChaCha20Poly1305, XNonce,
    aead::{Aead as _, OsRng, Payload},
};

/// First byte of an envelope; plain JSON starts with `{`.
const VERSION: u8 = 1;
/// Version byte, key id, nonce.
const HEADER: usize = 1 + 4 + 24;

/// Why the key file or an envelope was refused.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The key file cannot be read or made.
    #[error("cannot use the key file {path}")]
    File {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The key file is open to others.
    #[error("the key file {path} has mode {mode:03o}; it must be 600")]
    Mode {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// A line that is not `<id> <base64 of 32 bytes>`.
    #[error("line {line} of the key file {path} is not `<id> <base64 of 32 bytes>`")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Counted from one.
        line: usize,
    },
    /// The file names no key.
    #[error("the key file {path} holds no key")]
    Empty {
        /// Which file.
        path: PathBuf,
    },
    /// There are sealed objects, and no key file to open them with.
    #[error(
        "the key file {path} is missing and the store holds secrets that are sealed with it: restore it from the \
         backup (a new one would open none of them)"
    )]
    Missing {
        /// Which file.
        path: PathBuf,
    },
    /// The envelope was sealed by a key that is not in the file.
    #[error("sealed with key {id}, which is not in the key file")]
    UnknownKey {
        /// The key's id.
        id: u32,
    },
    /// Not an envelope, or altered, or moved from another object's row.
    #[error("the sealed bytes are damaged or belong to another object")]
    Damaged,
}

/// The keys by id; the first seals.
pub struct Keyring(Vec<(u32, XChaCha20Poly1305)>);

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(id, _)| id)).finish()
    }
}

impl Keyring {
    /// Reads the key file; makes it, with one new key, when there is none and nothing is `sealed` yet.
    pub fn open(path: &Path, sealed: bool) -> Result<Self, SealError> {
        let file = |source| SealError::File { path: path.to_owned(), source };
        match fs::metadata(path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && sealed => {
                return Err(SealError::Missing { path: path.to_owned() });
            }
            Err(e) if e.kind() == io::ErrorKind::NotFound => create(path).map_err(file)?,
            Err(e) => return Err(file(e)),
            Ok(meta) => {
                let mode = meta.permissions().mode() & 0o777;
                if mode & 0o077 != 0 {
                    return Err(SealError::Mode { path: path.to_owned(), mode });
                }
            }
        }
        Self::parse(path, &fs::read_to_string(path).map_err(file)?)
    }

    fn parse(path: &Path, text: &str) -> Result<Self, SealError> {
        let mut keys = Vec::new();
        let lines = text.lines().enumerate().map(|(i, line)| (i + 1, line.trim()));
        for (number, line) in lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')) {
            let key = line.split_once(' ').and_then(|(id, key)| {
                let bytes = STANDARD.decode(key.trim()).ok()?;
                let cipher = XChaCha20Poly1305::new_from_slice(&bytes).ok()?;
                Some((id.parse().ok()?, cipher))
            });
            keys.push(key.ok_or_else(|| SealError::Line { path: path.to_owned(), line: number })?);
        }
        if keys.is_empty() {
            return Err(SealError::Empty { path: path.to_owned() });
        }
        Ok(Self(keys))
    }

    /// Seals `plain` for the row named `row`: the envelope opens only there.
    pub(super) fn seal(&self, row: &str, plain: &[u8]) -> Result<Vec<u8>, SealError> {
        let (id, cipher) = self.0.first().ok_or(SealError::Damaged)?;
        let nonce = XChaCha20Poly1305::generate_nonce(&mut OsRng);
        let payload = Payload { msg: plain, aad: row.as_bytes() };
        let sealed = cipher.encrypt(&nonce, payload).map_err(|_| SealError::Damaged)?;
        let mut envelope = Vec::with_capacity(HEADER + sealed.len());
        envelope.push(VERSION);
        envelope.extend_from_slice(&id.to_be_bytes());
        envelope.extend_from_slice(&nonce);
        envelope.extend_from_slice(&sealed);
        Ok(envelope)
    }

    /// Opens an envelope of the row named `row`; also says whether the current key sealed it.
    pub(super) fn open_envelope(&self, row: &str, envelope: &[u8]) -> Result<(Vec<u8>, bool), SealError> {
        let Some((header, sealed)) = envelope.split_at_checked(HEADER).filter(|(h, _)| h[0] == VERSION)
        else {
            return Err(SealError::Damaged);
        };
        let id = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let at = self.0.iter().position(|(known, _)| *known == id).ok_or(SealError::UnknownKey { id })?;
        let payload = Payload { msg: sealed, aad: row.as_bytes() };
        let nonce = XNonce::from_slice(&header[5..]);
        let plain = self.0[at].1.decrypt(nonce, payload).map_err(|_| SealError::Damaged)?;
        Ok((plain, at == 0))
    }
}

fn create(path: &Path) -> io::Result<()> {
    let key: Key = XChaCha20Poly1305::generate_key(&mut OsRng);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "1 {}", STANDARD.encode(key))?;
    file.sync_all()?;
    path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keyring(dir: &tempfile::TempDir) -> Keyring {
        Keyring::open(&dir.path().join("key"), false).unwrap()
    }

    #[test]
    fn an_envelope_opens_only_unaltered_and_in_its_own_row() {
        let dir = tempfile::tempdir().unwrap();
        let keys = keyring(&dir);
        let envelope = keys.seal("secrets/a/b", b"canary").unwrap();
        assert_eq!(keys.open_envelope("secrets/a/b", &envelope).unwrap(), (b"canary".to_vec(), true));
        assert!(matches!(keys.open_envelope("secrets/a/c", &envelope), Err(SealError::Damaged)));
        let mut altered = envelope;
        *altered.last_mut().unwrap() ^= 1;
        assert!(matches!(keys.open_envelope("secrets/a/b", &altered), Err(SealError::Damaged)));
        assert!(matches!(keys.open_envelope("secrets/a/b", b"{}"), Err(SealError::Damaged)));
    }

    #[test]
    fn a_new_key_on_top_seals_and_the_old_one_still_opens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let old = keyring(&dir).seal("r", b"x").unwrap();
        let file = fs::read_to_string(&path).unwrap();
        fs::write(&path, format!("2 {}\n{file}", STANDARD.encode([7; 32]))).unwrap();
        let keys = keyring(&dir);
        assert_eq!(keys.open_envelope("r", &old).unwrap(), (b"x".to_vec(), false));
        let new = keys.seal("r", b"x").unwrap();
        assert!(keys.open_envelope("r", &new).unwrap().1);
        fs::write(&path, file).unwrap();
        assert!(matches!(keyring(&dir).open_envelope("r", &new), Err(SealError::UnknownKey { id: 2 })));
    }

    #[test]
    fn the_key_file_is_private_and_checked() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        keyring(&dir);
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(Keyring::open(&path, false), Err(SealError::Mode { mode: 0o644, .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&path, "# comment\n1 short\n").unwrap();
        assert!(matches!(Keyring::open(&path, false), Err(SealError::Line { line: 2, .. })));
        fs::write(&path, "").unwrap();
        assert!(matches!(Keyring::open(&path, false), Err(SealError::Empty { .. })));
    }
}
