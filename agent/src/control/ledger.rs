//! The last accepted desired state on disk: a node starts its pods from it when the scheduler is away.
//!
//! Two files, each replaced whole: `work.ledger` (pods with the secrets and config maps they refer to, and the
//! cluster's ranges) is written before anything is started from it; `table.ledger` (services and peers) follows
//! within a second, since it changes often and the kernel keeps what was programmed. A start takes the lower
//! generation of the two, and the session sends the rest again.
//!
//! Secrets never lie in plain files: both are sealed with a key of this node (`ledger.key`, 0600), so that a
//! copy of a file, or of a disk without that key, tells nothing. Never: knowledge of what the bytes mean.

use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
};

use chacha20poly1305::{ChaCha20Poly1305, Key, KeyInit, Nonce, aead::AeadInPlace};

use super::files::{self, FileError};
use crate::failpoint;

/// What is read. The first byte of a file of another version is another: it counts as none.
const VERSIONS: RangeInclusive<u8> = 1..=2;
const NONCE: usize = 12;
/// Version and nonce come before what is sealed.
const PREFIX: usize = 1 + NONCE;

/// One of the two files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    /// Pods, secrets, config maps, ranges.
    Work,
    /// Services and peers.
    Table,
}

impl Section {
    fn file(self) -> &'static str {
        match self {
            Self::Work => "work.ledger",
            Self::Table => "table.ledger",
        }
    }

    /// What is written. In a table of version 2 endpoints stand beside their services: an agent that does not know that
    /// would take it for one in which nobody answers, and empty the kernel's; so it is to know of none.
    const fn version(self) -> u8 {
        match self {
            Self::Work => 1,
            Self::Table => 2,
        }
    }
}

/// Content on its way into the ledger. It may be all a node has: it is composed, sealed and written in one buffer.
pub(super) struct Draft(Vec<u8>);

impl Draft {
    /// Empty, with room for what precedes it.
    pub(super) fn new() -> Self {
        Self(vec![0; PREFIX])
    }

    /// To append to.
    pub(super) fn content(&mut self) -> &mut Vec<u8> {
        &mut self.0
    }
}

/// The ledger cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Files.
    #[error(transparent)]
    File(#[from] FileError),
    /// The key file has been changed.
    #[error(
        "{0:?} does not hold a ledger key: remove it and the ledgers; the scheduler sends everything again"
    )]
    Key(PathBuf),
    /// Sealing failed.
    #[error("cannot seal the ledger")]
    Seal,
}

/// The ledger of one agent. Not Debug: it holds the key.
pub(super) struct Ledger {
    dir: PathBuf,
    cipher: ChaCha20Poly1305,
}

impl Ledger {
    /// Opens the ledger in `dir`; the key is made at the first start.
    pub(super) fn open(dir: &Path) -> Result<Self, LedgerError> {
        files::make_dir(dir)?;
        let path = dir.join("ledger.key");
        let key: [u8; 32] = match files::read(&path)? {
            Some(bytes) => bytes.try_into().map_err(|_| LedgerError::Key(path))?,
            None => {
                let key: [u8; 32] = rand::random();
                files::write(&path, &key)?;
                key
            }
        };
        Ok(Self { dir: dir.to_owned(), cipher: ChaCha20Poly1305::new(&Key::from(key)) })
    }

    /// The content of a section; `None` when there is none, or none that can be opened (which is logged: the
    /// scheduler sends everything again, and a damaged file must not keep the node down).
    pub(super) fn load(&self, section: Section) -> Result<Option<Vec<u8>>, LedgerError> {
        let path = self.dir.join(section.file());
        let Some(sealed) = files::read(&path)? else { return Ok(None) };
        let content = self.unseal(section, sealed);
        if content.is_none() {
            tracing::error!(?path, "ledger is damaged or sealed with another key, starting without it");
        }
        Ok(content)
    }

    /// Replaces a section; durable on return.
    pub(super) fn store(&self, section: Section, draft: Draft) -> Result<(), LedgerError> {
        let nonce: [u8; NONCE] = rand::random();
        let Draft(mut file) = draft;
        let (prefix, content) = file.split_at_mut(PREFIX);
        prefix[0] = section.version();
        prefix[1..].copy_from_slice(&nonce);
        let name = section.file().as_bytes();
        let sealed = self.cipher.encrypt_in_place_detached(&Nonce::from(nonce), name, content);
        let tag = sealed.map_err(|_| LedgerError::Seal)?;
        file.extend_from_slice(&tag);
        failpoint::reach("ledger.store.sealed", section.file());
        files::write(&self.dir.join(section.file()), &file)?;
        failpoint::reach("ledger.store.stored", section.file());
        Ok(())
    }

    fn unseal(&self, section: Section, mut file: Vec<u8>) -> Option<Vec<u8>> {
        let (version, rest) = file.split_first()?;
        let nonce: [u8; NONCE] = rest.split_at_checked(NONCE)?.0.try_into().ok()?;
        if !VERSIONS.contains(version) {
            return None;
        }
        file.drain(..PREFIX);
        // A table under the work's name would be another node state: the name is sealed in.
        let name = section.file().as_bytes();
        self.cipher.decrypt_in_place(&Nonce::from(nonce), name, &mut file).ok()?;
        Some(file)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn draft(content: &[u8]) -> Draft {
        let mut draft = Draft::new();
        draft.content().extend_from_slice(content);
        draft
    }

    #[test]
    fn content_comes_back_and_is_sealed_on_disk() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        assert_eq!(ledger.load(Section::Work).unwrap(), None);
        ledger.store(Section::Work, draft(b"the password")).unwrap();
        let again = Ledger::open(dir.path()).unwrap();
        assert_eq!(again.load(Section::Work).unwrap().as_deref(), Some(b"the password".as_slice()));
        let file = dir.path().join("work.ledger");
        let bytes = std::fs::read(&file).unwrap();
        assert!(!bytes.windows(8).any(|w| w == b"password"));
        for name in ["work.ledger", "ledger.key"] {
            let mode = std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
    }

    #[test]
    fn a_damaged_or_exchanged_file_is_as_good_as_none() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(dir.path()).unwrap();
        ledger.store(Section::Work, draft(b"work")).unwrap();
        std::fs::copy(dir.path().join("work.ledger"), dir.path().join("table.ledger")).unwrap();
        assert_eq!(ledger.load(Section::Table).unwrap(), None);
        for content in [&b""[..], b"\x01short", b"\x03garbage of another version"] {
            std::fs::write(dir.path().join("work.ledger"), content).unwrap();
            assert_eq!(ledger.load(Section::Work).unwrap(), None);
        }
        std::fs::write(dir.path().join("ledger.key"), b"short").unwrap();
        assert!(matches!(Ledger::open(dir.path()), Err(LedgerError::Key(_))));
    }
}
