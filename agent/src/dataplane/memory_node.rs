//! The datapath of a node that is all in memory: the real table on maps of plain memory, read by the code that the kernel
//! runs. In: services. Out: where a connection may go. Never: an answer that the table does not give.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddrV4},
    path::Path,
    sync::Mutex,
};

use agent_ebpf_common::abi::ROW;

use super::{
    Dataplane, DataplaneError, Programmed, kernel::v4_addresses, lock, memory::Memory, table::Table,
};
use crate::model::{NodeName, PodAddresses, PodUid, ServiceTable};

/// See the module.
#[derive(Debug)]
pub struct MemoryDataplane {
    memory: Memory,
    table: Mutex<Table<Memory>>,
}

impl MemoryDataplane {
    /// Tables with room for this many frontends, and for 16 endpoints to each.
    ///
    /// # Errors
    ///
    /// None that memory has.
    pub fn new(frontends: u32) -> Result<Self, DataplaneError> {
        let rows = frontends as usize;
        let memory = Memory::new(frontends, rows, rows * ROW as usize);
        Ok(Self { table: Mutex::new(Table::recover(memory.clone())?), memory })
    }

    /// The next agent takes over what the kernel has.
    ///
    /// # Errors
    ///
    /// None that memory has.
    pub fn restart(&self) -> Result<(), DataplaneError> {
        *lock(&self.table) = Table::recover(self.memory.clone())?;
        Ok(())
    }

    /// The kernel has nothing any more, and the next agent starts with that.
    ///
    /// # Errors
    ///
    /// None that memory has.
    pub fn reboot(&self) -> Result<(), DataplaneError> {
        self.memory.reboot();
        self.restart()
    }

    /// Where a connection of a pod to this address and port may go: `None` when it is no service's.
    #[must_use]
    pub fn answers(&self, to: SocketAddrV4, protocol: u8) -> Option<BTreeSet<SocketAddrV4>> {
        self.memory.answers(to, protocol)
    }
}

impl Dataplane for MemoryDataplane {
    fn publish(
        &self,
        services: &ServiceTable,
        node: &NodeName,
        node_addresses: &[IpAddr],
    ) -> Result<Programmed, DataplaneError> {
        let addresses = v4_addresses(node_addresses).into_iter();
        self.memory.set_node_addresses(addresses.map(|address| u32::from_ne_bytes(address.octets())));
        let mut table = lock(&self.table);
        let done = table.publish(services, node);
        self.memory.grace();
        let retired = table.take_retired();
        table.release(retired);
        done
    }

    fn set_uplink(&self, _interface: Option<&str>) -> Result<(), DataplaneError> {
        Ok(())
    }

    fn attach_pod(
        &self,
        _uid: &PodUid,
        _netns: &Path,
        _addresses: &PodAddresses,
    ) -> Result<(), DataplaneError> {
        Ok(())
    }

    fn detach_pod(&self, _uid: &PodUid) -> Result<(), DataplaneError> {
        Ok(())
    }
}
