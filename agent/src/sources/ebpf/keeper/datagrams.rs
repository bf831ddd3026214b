//! The part of the seam that is UDP's: an object of its own, so that what a kernel lacks of it costs UDP only.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use aya::Ebpf;
#[expect(
    deprecated,
    reason = "its successor came with Linux 6.2, and we load on 5.10"
)]
use aya::maps::CgroupStorage;
use aya::maps::cgroup_storage::CgroupStorageKey;
use aya::maps::{Array, HashMap, Map, MapData, MapError};
use aya::programs::links::{FdLink, LinkError};
use aya::programs::{CgroupAttachMode, CgroupSkb, CgroupSkbAttachType, CgroupSock, CgroupSockAddr};
use plumbline_core::id::CgroupId;
use plumbline_ebpf::names;
use plumbline_ebpf::udp::{Attachment, HEARD, Socket, range};

use super::{AttachError, ProgramStats, ids_of, is_among, open_cgroup, program, refused, stats_of};
use crate::sources::ebpf::{Ports, object};

/// Single is flags 0, the only mode in which links of several agents live side by side.
const MODE: CgroupAttachMode = CgroupAttachMode::Single;

/// Cgroups without programs that are remembered until their sockets are out of the table. Full: the program sees to it that
/// no quota falls below zero.
const STALE_MAX: usize = 4_096;

/// Owner of UDP's object and of its attachments. Dropping it detaches everything.
#[derive(Debug)]
pub(in crate::sources::ebpf) struct Datagrams {
    ebpf: Ebpf,
    #[expect(
        deprecated,
        reason = "its successor came with Linux 6.2, and we load on 5.10"
    )]
    owners: CgroupStorage<MapData, Attachment>,
    quota: HashMap<MapData, u64, u64>,
    sockets: HashMap<MapData, u64, Socket>,
    ranges: HashMap<MapData, u64, u32>,
    heard: HashMap<MapData, u64, u32>,
    /// What is in that map.
    known_ranges: Ports,
    links: BTreeMap<CgroupId, Vec<FdLink>>,
    /// Attachments that see what is received, of those containers that have them.
    hearing: BTreeMap<CgroupId, Vec<FdLink>>,
    /// Cgroups that lost their programs, or got only some of them, and of which sockets may still be in the table: their quota
    /// must not begin anew before those are out, or it would fall below zero when they close.
    stale: BTreeSet<CgroupId>,
    packets: bool,
}

impl Datagrams {
    /// Makes the maps and loads the programs; those that see every packet only if they are asked for.
    pub(in crate::sources::ebpf) fn load(
        packets: bool,
        (first, last): (u16, u16),
    ) -> anyhow::Result<Self> {
        let mut ebpf = object::load_datagrams()?;
        for (name, _) in names::UDP_ADDRESS.into_iter().chain(names::UDP_RECEIVE) {
            let address: &mut CgroupSockAddr = program(&mut ebpf, name)?;
            address.load().map_err(|error| refused(name, error))?;
        }
        for name in names::UDP_SOCKET {
            let socket: &mut CgroupSock = program(&mut ebpf, name)?;
            socket.load().map_err(|error| refused(name, error))?;
        }
        if packets {
            for (name, _) in names::UDP_PACKET {
                let packet: &mut CgroupSkb = program(&mut ebpf, name)?;
                packet.load().map_err(|error| refused(name, error))?;
            }
        }
        let mut ports: Array<_, u32> = object::take(&mut ebpf, names::UDP_PORTS)?;
        ports
            .set(0, range(first, last), 0)
            .context("tell the range of dynamic ports")?;
        Ok(Self {
            owners: object::take(&mut ebpf, names::UDP_OWNER)?,
            quota: object::take(&mut ebpf, names::UDP_QUOTA)?,
            sockets: object::take(&mut ebpf, names::UDP_SOCKETS)?,
            ranges: object::take(&mut ebpf, names::UDP_RANGES)?,
            heard: object::take(&mut ebpf, names::UDP_HEARD)?,
            known_ranges: Ports::new(),
            ebpf,
            links: BTreeMap::new(),
            hearing: BTreeMap::new(),
            stale: BTreeSet::new(),
            packets,
        })
    }

    /// Takes a map for reading.
    pub(in crate::sources::ebpf) fn map<T: TryFrom<Map, Error = MapError>>(
        &mut self,
        name: &str,
    ) -> anyhow::Result<T> {
        object::take(&mut self.ebpf, name)
    }

    /// Attaches the programs to a container's cgroup and tells them whose sockets they see. Once more is nothing.
    pub(in crate::sources::ebpf) fn attach(
        &mut self,
        cgroup: CgroupId,
        directory: &Path,
    ) -> Result<(), AttachError> {
        if self.links.contains_key(&cgroup) {
            return Ok(());
        }
        let directory = open_cgroup(cgroup, directory)?;
        if self.stale.contains(&cgroup) {
            self.sweep()
                .map_err(|error| AttachError::from(&anyhow!(error)))?;
        }
        self.quota
            .insert(cgroup.0, 0, 0)
            .map_err(|error| AttachError::from(&anyhow!(error)))?;
        let links = self.attach_all(cgroup, &directory);
        if links.is_err() {
            self.forget(cgroup);
        }
        self.links.insert(cgroup, links?);
        Ok(())
    }

    /// Attaches the programs that see what a container receives, if it has the others. Once more is nothing.
    pub(in crate::sources::ebpf) fn hear(
        &mut self,
        cgroup: CgroupId,
        directory: &Path,
    ) -> Result<(), AttachError> {
        if self.hears(cgroup) || !self.links.contains_key(&cgroup) {
            return Ok(());
        }
        let directory = open_cgroup(cgroup, directory)?;
        let mut links = Vec::new();
        for hook in names::UDP_RECEIVE {
            links.push(self.attach_address(cgroup, &directory, hook)?);
        }
        self.heard
            .insert(cgroup.0, HEARD, 0)
            .map_err(|error| AttachError::from(&anyhow!(error)))?;
        self.hearing.insert(cgroup, links);
        Ok(())
    }

    /// Whether it is seen what a container receives.
    pub(in crate::sources::ebpf) fn hears(&self, cgroup: CgroupId) -> bool {
        self.hearing.contains_key(&cgroup)
    }

    /// The containers of which it is seen.
    pub(in crate::sources::ebpf) fn heard(&self) -> impl Iterator<Item = CgroupId> {
        self.hearing.keys().copied()
    }

    /// Takes those programs off a container's cgroup.
    pub(in crate::sources::ebpf) fn hear_no_more(&mut self, cgroup: CgroupId) {
        self.hearing.remove(&cgroup);
        match self.heard.remove(&cgroup.0) {
            Ok(()) | Err(MapError::KeyNotFound) => {}
            Err(error) => {
                tracing::debug!(cgroup = cgroup.0, error = %error, "that a container is heard cannot be taken back");
            }
        }
    }

    fn attach_address(
        &mut self,
        cgroup: CgroupId,
        directory: &File,
        (name, attach_type): (&str, u32),
    ) -> Result<FdLink, AttachError> {
        let address: &mut CgroupSockAddr = program(&mut self.ebpf, name)?;
        let link = address.attach(directory, MODE)?;
        let link = kept(address.take_link(link)?)?;
        self.own(cgroup, attach_type)?;
        Ok(link)
    }

    fn attach_all(
        &mut self,
        cgroup: CgroupId,
        directory: &File,
    ) -> Result<Vec<FdLink>, AttachError> {
        let mut links = Vec::new();
        for name in names::UDP_SOCKET {
            let socket: &mut CgroupSock = program(&mut self.ebpf, name)?;
            let link = socket.attach(directory, MODE)?;
            links.push(kept(socket.take_link(link)?)?);
        }
        for hook in names::UDP_ADDRESS {
            links.push(self.attach_address(cgroup, directory, hook)?);
        }
        if self.packets {
            for (name, attach_type) in names::UDP_PACKET {
                let packet: &mut CgroupSkb = program(&mut self.ebpf, name)?;
                let direction = if attach_type == 0 {
                    CgroupSkbAttachType::Ingress
                } else {
                    CgroupSkbAttachType::Egress
                };
                let link = packet.attach(directory, direction, MODE)?;
                links.push(kept(packet.take_link(link)?)?);
                self.own(cgroup, attach_type)?;
            }
        }
        Ok(links)
    }

    /// Tells an attachment whose sockets it sees.
    fn own(&mut self, cgroup: CgroupId, attach_type: u32) -> Result<(), AttachError> {
        let attachment = Attachment {
            owner: cgroup.0,
            ..Attachment::default()
        };
        let key = CgroupStorageKey::new(cgroup.0, attach_type);
        self.owners
            .insert(key, attachment, 0)
            .map_err(|error| AttachError::from(&anyhow!(error)))
    }

    /// Takes the programs off a container's cgroup.
    pub(in crate::sources::ebpf) fn detach(&mut self, cgroup: CgroupId) {
        if self.links.remove(&cgroup).is_some() {
            self.forget(cgroup);
        }
    }

    fn forget(&mut self, cgroup: CgroupId) {
        self.hear_no_more(cgroup);
        if self.stale.len() < STALE_MAX {
            self.stale.insert(cgroup);
        }
        if let Err(error) = self.quota.remove(&cgroup.0) {
            tracing::debug!(cgroup = cgroup.0, error = %error, "a quota cannot be removed");
        }
    }

    /// Containers of which someone else detached a program, as [`super::Keeper::detached`].
    pub(in crate::sources::ebpf) fn detached(&self, idle: &BTreeSet<u32>) -> Vec<CgroupId> {
        let lost = |links: &[FdLink]| links.iter().any(|link| is_among(idle, link));
        let all = self.links.iter().chain(&self.hearing);
        let detached: BTreeSet<CgroupId> = all
            .filter(|(_, links)| lost(links))
            .map(|(cgroup, _)| *cgroup)
            .collect();
        detached.into_iter().collect()
    }

    /// Ids of our programs.
    pub(in crate::sources::ebpf) fn ids(&self) -> BTreeSet<u32> {
        ids_of(&self.ebpf)
    }

    /// Containers that were refused something because they had used up their share, with how often: new flows, and sockets
    /// whose end is told. Reads every attachment's storage, so that it is worth calling only when a counter has moved.
    pub(in crate::sources::ebpf) fn refusals(&self) -> Vec<(CgroupId, u64, u64)> {
        let packets = names::UDP_PACKET.iter().filter(|_| self.packets);
        let addresses = names::UDP_ADDRESS.iter().chain(&names::UDP_RECEIVE);
        let hooks: Vec<_> = addresses.chain(packets).collect();
        let of = |cgroup: &CgroupId| {
            let (mut flows, mut sockets) = (0, 0);
            for (name, attach_type) in &hooks {
                let key = CgroupStorageKey::new(cgroup.0, *attach_type);
                // Without: the container is gone, and its storage with it.
                let refused = self.owners.get(key, 0).map_or(0, |of| of.refused);
                if names::UDP_BIND.contains(name) {
                    sockets += refused;
                } else {
                    flows += refused;
                }
            }
            (*cgroup, flows, sockets)
        };
        let all = self.links.keys().map(of);
        all.filter(|(_, flows, sockets)| flows + sockets > 0)
            .collect()
    }

    /// Whether a container has programs.
    pub(in crate::sources::ebpf) fn is_attached(&self, cgroup: CgroupId) -> bool {
        self.links.contains_key(&cgroup)
    }

    /// Containers with programs.
    pub(in crate::sources::ebpf) fn attached(&self) -> BTreeSet<CgroupId> {
        self.links.keys().copied().collect()
    }

    /// Tells programs in which containers the kernel gives out other ports by itself. Replaces what was told before.
    pub(in crate::sources::ebpf) fn set_ranges(&mut self, now: Ports) -> Result<(), MapError> {
        let old = std::mem::take(&mut self.known_ranges);
        for container in old.keys().filter(|container| !now.contains_key(container)) {
            self.ranges.remove(&container.0)?;
        }
        for (container, (first, last)) in now {
            if old.get(&container) != Some(&(first, last)) {
                self.ranges.insert(container.0, range(first, last), 0)?;
            }
            self.known_ranges.insert(container, (first, last));
        }
        Ok(())
    }

    /// Removes sockets of containers that lost their programs: nobody will see them close. Returns how many are left.
    pub(in crate::sources::ebpf) fn sweep(&mut self) -> Result<u64, MapError> {
        let mut left = 0;
        let mut old = Vec::new();
        for entry in self.sockets.iter() {
            let (cookie, socket) = entry?;
            if self.links.contains_key(&CgroupId(socket.owner)) {
                left += 1;
            } else {
                old.push(cookie);
            }
        }
        self.stale.clear();
        for cookie in old {
            match self.sockets.remove(&cookie) {
                // Closed meanwhile.
                Ok(()) | Err(MapError::KeyNotFound) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(left)
    }

    /// What the kernel says about the programs that are loaded.
    pub(in crate::sources::ebpf) fn programs(&self) -> Vec<ProgramStats> {
        stats_of(&self.ebpf)
    }
}

/// An attachment, to be held: it ends with what is returned.
fn kept<T>(link: T) -> Result<FdLink, AttachError>
where
    FdLink: TryFrom<T, Error = LinkError>,
{
    FdLink::try_from(link).map_err(|error| AttachError::from(&anyhow!(error)))
}
