//! The serving certificate, replaced in place before it expires: connections that exist are not disturbed.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{
    crypto::ring::sign::any_supported_type,
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use tokio_util::sync::CancellationToken;

use super::{Authority, PkiError, Validity};

/// How soon to try again when a new certificate could not be made.
const RETRY: Duration = Duration::from_secs(60);

/// The current serving certificate; give it to [`super::server_config`].
pub struct Serving {
    authority: Arc<Authority>,
    names: Vec<String>,
    lifetime: Duration,
    current: ArcSwap<CertifiedKey>,
}

impl Serving {
    /// Issues the first certificate for `names` (DNS names and IP addresses).
    pub fn issue(
        authority: Arc<Authority>,
        names: Vec<String>,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Arc<Self>, PkiError> {
        let first = certified(&authority, &names, lifetime, now)?;
        Ok(Arc::new(Self { authority, names, lifetime, current: ArcSwap::from_pointee(first) }))
    }

    /// Replaces the certificate now.
    pub fn reissue(&self, now: SystemTime) -> Result<(), PkiError> {
        self.current.store(Arc::new(certified(&self.authority, &self.names, self.lifetime, now)?));
        Ok(())
    }

    /// Replaces the certificate after two thirds of each one's lifetime, until `stop`.
    pub async fn keep_fresh(self: Arc<Self>, stop: CancellationToken) {
        let mut wait = self.lifetime * 2 / 3;
        // Both branches are cancel-safe: a timer and a token hold no state of ours.
        while stop.run_until_cancelled(tokio::time::sleep(wait)).await.is_some() {
            wait = match self.reissue(SystemTime::now()) {
                Ok(()) => {
                    tracing::info!(names = ?self.names, "serving certificate reissued");
                    self.lifetime * 2 / 3
                }
                Err(error) => {
                    tracing::error!(%error, "serving certificate not reissued");
                    RETRY.min(self.lifetime / 10)
                }
            };
        }
    }
}

impl fmt::Debug for Serving {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Serving").field("names", &self.names).finish_non_exhaustive()
    }
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn certified(
    authority: &Authority,
    names: &[String],
    lifetime: Duration,
    now: SystemTime,
) -> Result<CertifiedKey, PkiError> {
    let (cert, key) = authority.serving(names, Validity::starting(now, lifetime))?;
    let key = any_supported_type(&key).map_err(PkiError::Tls)?;
    // The CA goes along, so that a machine that joins with a pin sees it.
    Ok(CertifiedKey::new(vec![cert, authority.ca_der().clone()], key))
}
