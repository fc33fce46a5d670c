//! Addresses from the ranges that there are.
//!
//! In: the ServiceCIDRs as they are stored at the moment. Out: an address that nobody has, promised to a write. Never:
//! an address of a range that is going, of an IPAddress that is there, whosever it is, or of a service that has none yet.

use std::{
    net::{IpAddr, Ipv4Addr},
    sync::{Arc, Mutex, PoisonError},
};

use ipnet::{IpNet, Ipv4Net};
use rand::Rng as _;
use serde_json::{Value, json};

use super::{Claim, Write, order};
use crate::{
    kinds::{service::families, service_cidr},
    model::{ApiError, Key, Object, Reason, Resource},
    objects::{Objects, Selection},
};

/// A range that ends while it is looked at is left out at the next look. They do not end this often.
const LOOKS: usize = 8;

/// An IPv4 range that gives addresses.
pub(super) struct Range {
    /// The ServiceCIDR.
    object: Key,
    net: Ipv4Net,
}

#[derive(Default)]
struct Read {
    objects: Vec<Arc<Object>>,
    ranges: Arc<[Range]>,
}

/// Those that there are. Read again when their objects have changed.
#[derive(Default)]
pub(super) struct Ranges(Mutex<Read>);

impl Ranges {
    async fn current(&self, objects: &Objects) -> Result<Arc<[Range]>, ApiError> {
        let stored = objects.list(Resource::SERVICE_CIDRS, &Selection::default()).await?.items;
        // Nothing between lock and unlock panics half-way, so a poisoned lock is still sound.
        let mut read = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let same = stored.len() == read.objects.len()
            && stored.iter().zip(&read.objects).all(|(now, before)| Arc::ptr_eq(now, before));
        if !same {
            let ranges = stored.iter().flat_map(|object| giving(object)).collect();
            *read = Read { objects: stored, ranges };
        }
        Ok(read.ranges.clone())
    }
}

/// The ranges of an object that give IPv4 addresses: the cluster has no others.
fn giving(object: &Object) -> Vec<Range> {
    let Ok(value) = object.decode::<Value>() else {
        tracing::error!(key = %object.key, "a stored ServiceCIDR does not decode: its ranges give no addresses");
        return Vec::new();
    };
    if !service_cidr::gives(&value) {
        return Vec::new();
    }
    let ranges = service_cidr::ranges(&value).into_iter().filter_map(|range| match range {
        IpNet::V4(net) => Some(Range { object: object.key.clone(), net }),
        IpNet::V6(_) => None,
    });
    ranges.collect()
}

/// What came of trying to take an address.
#[derive(PartialEq, Eq)]
enum Taken {
    Yes,
    /// Somebody has it.
    No,
    /// Its range gives no more.
    Ended,
}

enum Picked {
    Address(Ipv4Addr),
    /// A range ended meanwhile.
    Again,
}

impl Write<'_> {
    /// Gives the service its address: the one that it names, or any.
    pub(super) async fn address(&mut self, spec: &mut Value) -> Result<(), ApiError> {
        let given = spec["clusterIPs"][0].as_str().unwrap_or_default().to_owned();
        let wanted = match families::parse(&given) {
            Some(IpAddr::V4(address)) => Some(address),
            _ => None,
        };
        for _ in 0..LOOKS {
            let ranges = self.from.current(self.objects).await?;
            let picked = match wanted {
                Some(address) => self.this_address(address, &ranges, spec)?,
                None => self.any_address(&ranges)?,
            };
            if let Picked::Address(address) = picked {
                let text = if wanted.is_some() { given } else { address.to_string() };
                spec["clusterIP"] = text.clone().into();
                spec["clusterIPs"] = json!([text]);
                return Ok(());
            }
        }
        Err(self.full())
    }

    fn this_address(
        &mut self,
        address: Ipv4Addr,
        ranges: &[Range],
        spec: &Value,
    ) -> Result<Picked, ApiError> {
        let holds = |range: &&Range| service_cidr::holds(&range.net.into(), address.into());
        let why = match ranges.iter().find(holds) {
            None => "the provided network does not match the current range",
            Some(range) => {
                let reserved = self.ranges.reserves(address, &self.id);
                match if reserved { Taken::No } else { self.take_address(address, range) } {
                    Taken::Yes => return Ok(Picked::Address(address)),
                    Taken::Ended => return Ok(Picked::Again),
                    Taken::No => "provided IP is already allocated",
                }
            }
        };
        let message =
            format!("Invalid value: {}: failed to allocate IP {address}: {why}", spec["clusterIPs"]);
        Err(self.invalid("spec.clusterIPs".to_owned(), message))
    }

    /// From any range. In it the upper part first, from a random place: the lower part is for those who choose, and an
    /// address that was just given up is not the next one given out.
    fn any_address(&mut self, ranges: &[Range]) -> Result<Picked, ApiError> {
        let first = if ranges.is_empty() { 0 } else { rand::rng().random_range(0..ranges.len()) };
        let (before, after) = ranges.split_at(first);
        for range in after.iter().chain(before) {
            let size = 1_u32.checked_shl(32 - u32::from(range.net.prefix_len())).unwrap_or(u32::MAX);
            let usable = size.saturating_sub(2);
            let low = (usable / 16).clamp(16.min(usable), 256.min(usable));
            let first = u32::from(range.net.network()) + 1;
            for offset in order(low, usable) {
                let address = Ipv4Addr::from(first + offset);
                if self.ranges.reserves(address, &self.id) {
                    continue;
                }
                match self.take_address(address, range) {
                    Taken::Yes => return Ok(Picked::Address(address)),
                    Taken::Ended => return Ok(Picked::Again),
                    Taken::No => {}
                }
            }
        }
        Err(self.full())
    }

    /// Promises the address first and looks then whether it and its range are free to be given: who ends the range looks
    /// the other way round, so that one of the two sees the other.
    fn take_address(&mut self, address: Ipv4Addr, range: &Range) -> Taken {
        let claim = Claim::Address(address);
        if !self.allocator.take(claim.clone(), &self.id, self.dry_run) {
            return Taken::No;
        }
        let taken =
            if self.objects.stored(&Key::cluster(Resource::IP_ADDRESSES, &address.to_string())).is_some() {
                Taken::No
            } else if self.objects.stored(&range.object).is_none_or(|range| range.deleting) {
                Taken::Ended
            } else {
                Taken::Yes
            };
        if taken == Taken::Yes {
            self.keep(claim);
        } else if !self.dry_run {
            self.allocator.give_back(&claim, &self.id);
        }
        taken
    }

    fn full(&self) -> ApiError {
        let what = format!("failed to allocate a serviceIP for Service {:?}", &*self.id.name);
        ApiError::new(Reason::InternalError, format!("Internal error occurred: {what}: range is full"))
    }
}
