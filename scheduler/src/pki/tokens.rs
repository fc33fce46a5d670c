//! Bootstrap tokens: `id.secret`, kept as the hash of the secret with an expiry in `tokens.json`.
//!
//! The file is read at each use, so that a token made by the command line holds in a running daemon; a lock
//! file keeps two writers apart.

use std::{
    collections::BTreeMap,
    fmt,
    fs::File,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rand::Rng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{PkiError, authority::is_node_name, files, key::hex};

const ID_LENGTH: usize = 6;
const SECRET_LENGTH: usize = 16;
const ALPHABET: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// The public half of a token: names it in lists and logs.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenId(String);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A whole token. Debug hides the secret; `reveal` is the one way to see it.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    id: TokenId,
    secret: String,
}

impl Token {
    /// A new random token.
    pub fn generate() -> Self {
        Self { id: TokenId(random_text(ID_LENGTH)), secret: random_text(SECRET_LENGTH) }
    }

    /// Parses `id.secret`: six and sixteen lower-case letters and digits, as upstream has them.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.split_once('.')?;
        let legal = |part: &str, length| part.len() == length && part.bytes().all(|b| ALPHABET.contains(&b));
        (legal(id, ID_LENGTH) && legal(secret, SECRET_LENGTH))
            .then(|| Self { id: TokenId(id.to_owned()), secret: secret.to_owned() })
    }

    /// Its public half.
    pub fn id(&self) -> &TokenId {
        &self.id
    }

    /// `id.secret`, to be shown once to whoever made it.
    pub fn reveal(&self) -> String {
        format!("{}.{}", self.id, self.secret)
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Token({}.<hidden>)", self.id)
    }
}

/// Why a token was not taken. The asker learns only that it was not.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefusal {
    /// Not `id.secret`.
    #[error("the token is not of the form id.secret")]
    Malformed,
    /// No token has this id.
    #[error("no token has the id {0}")]
    Unknown(TokenId),
    /// The secret is another one.
    #[error("wrong secret for token {0}")]
    Wrong(TokenId),
    /// Its time is over.
    #[error("token {0} has expired")]
    Expired(TokenId),
}

/// What is known of a token without its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenInfo {
    /// Public half.
    pub id: TokenId,
    /// `None`: never.
    pub expires: Option<SystemTime>,
    /// The one node that it lets in; `None`: any that is new.
    pub node: Option<String>,
    /// Free text.
    pub description: String,
}

/// What holds a token that was shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenGrant {
    /// Which one.
    pub id: TokenId,
    /// The one node that it lets in, be it known or not; `None`: any that is new.
    pub node: Option<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    sha256: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    expires: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    description: String,
}

type Table = BTreeMap<TokenId, Entry>;

/// The token list in `<data>/pki/tokens.json`.
#[derive(Clone, Debug)]
pub struct Tokens {
    path: PathBuf,
}

impl Tokens {
    /// The list in `dir`, which is made when it is not there.
    pub fn open(dir: &Path) -> Result<Self, PkiError> {
        files::make_dir(dir)?;
        Ok(Self { path: dir.join("tokens.json") })
    }

    /// Stores a token for any node that is new; `lifetime` `None` is for ever. One with the same id is replaced.
    pub fn add(
        &self,
        token: &Token,
        lifetime: Option<Duration>,
        description: &str,
        now: SystemTime,
    ) -> Result<(), PkiError> {
        self.add_for(token, lifetime, description, None, now)
    }

    /// As [`Tokens::add`], for one node: an operator's word that whoever shows it is to have that name.
    pub fn add_for(
        &self,
        token: &Token,
        lifetime: Option<Duration>,
        description: &str,
        node: Option<&str>,
        now: SystemTime,
    ) -> Result<(), PkiError> {
        if let Some(node) = node.filter(|node| !is_node_name(node)) {
            return Err(PkiError::NodeName(node.to_owned()));
        }
        let entry = Entry {
            sha256: hex(&Sha256::digest(&token.secret)),
            expires: lifetime.map(|l| unix(now + l)),
            node: node.map(str::to_owned),
            description: description.to_owned(),
        };
        self.change(|table| {
            // Expired ones have no use; this is where the list shrinks.
            table.retain(|_, e| e.expires.is_none_or(|at| at > unix(now)));
            table.insert(token.id.clone(), entry);
        })
    }

    /// Forgets a token; whether there was one.
    pub fn remove(&self, id: &str) -> Result<bool, PkiError> {
        let mut found = false;
        self.change(|table| found = table.remove(&TokenId(id.to_owned())).is_some())?;
        Ok(found)
    }

    /// All tokens, expired ones included.
    pub fn list(&self) -> Result<Vec<TokenInfo>, PkiError> {
        let info = |(id, e): (TokenId, Entry)| TokenInfo {
            id,
            expires: e.expires.map(|at| UNIX_EPOCH + Duration::from_secs(at)),
            node: e.node,
            description: e.description,
        };
        Ok(self.load()?.into_iter().map(info).collect())
    }

    /// Whether `text` is a token that holds now.
    pub fn verify(&self, text: &str, now: SystemTime) -> Result<Result<TokenGrant, TokenRefusal>, PkiError> {
        let Some(token) = Token::parse(text) else { return Ok(Err(TokenRefusal::Malformed)) };
        let table = self.load()?;
        let given = hex(&Sha256::digest(&token.secret));
        let Some(entry) = table.get(&token.id) else { return Ok(Err(TokenRefusal::Unknown(token.id))) };
        if !bool::from(given.as_bytes().ct_eq(entry.sha256.as_bytes())) {
            return Ok(Err(TokenRefusal::Wrong(token.id)));
        }
        if entry.expires.is_some_and(|at| at <= unix(now)) {
            return Ok(Err(TokenRefusal::Expired(token.id)));
        }
        Ok(Ok(TokenGrant { id: token.id, node: entry.node.clone() }))
    }

    fn load(&self) -> Result<Table, PkiError> {
        match files::read(&self.path)? {
            None => Ok(Table::new()),
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|_| PkiError::Damaged { path: self.path.clone(), what: "token list" }),
        }
    }

    fn change(&self, edit: impl FnOnce(&mut Table)) -> Result<(), PkiError> {
        let lock_path = self.path.with_extension("lock");
        let lock = File::create(&lock_path).map_err(files::failed("create", &lock_path))?;
        lock.lock().map_err(files::failed("lock", &lock_path))?;
        let mut table = self.load()?;
        edit(&mut table);
        let text = serde_json::to_vec_pretty(&table)
            .map_err(|_| PkiError::Damaged { path: self.path.clone(), what: "token list" })?;
        files::write(&self.path, &text)
    }
}

fn unix(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn random_text(length: usize) -> String {
    let mut rng = rand::rng();
    (0..length).map(|_| char::from(ALPHABET[rng.random_range(0..ALPHABET.len())])).collect()
}
