//! The embedded object: bytes, maps by name. Nothing is loaded from disk or network, and nothing is pinned.

use anyhow::{Context as _, anyhow};
use aya::maps::{Map, MapError};
use aya::{Ebpf, EbpfLoader};
use plumbline_ebpf::names;

/// The object, unless this was built without a compiler for it.
#[cfg(not(plumbline_no_ebpf))]
pub(super) fn bytes() -> Option<&'static [u8]> {
    static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/probes"));
    Some(OBJECT)
}

/// The object, unless this was built without a compiler for it.
#[cfg(plumbline_no_ebpf)]
pub(super) const fn bytes() -> Option<&'static [u8]> {
    None
}

/// The object of UDP, unless this was built without a compiler for it.
#[cfg(not(plumbline_no_ebpf))]
pub(super) fn datagrams() -> Option<&'static [u8]> {
    static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/datagrams"));
    Some(OBJECT)
}

/// The object of UDP, unless this was built without a compiler for it.
#[cfg(plumbline_no_ebpf)]
pub(super) const fn datagrams() -> Option<&'static [u8]> {
    None
}

/// Makes the maps of UDP.
pub(super) fn load_datagrams() -> anyhow::Result<Ebpf> {
    let bytes = datagrams().context("built without eBPF")?;
    EbpfLoader::new()
        .btf(None)
        .load(bytes)
        .context("make the maps of UDP")
}

/// Makes the maps. Programs are loaded one by one, so that one that the kernel refuses costs one probe.
pub(super) fn load(flows_max: u32) -> anyhow::Result<Ebpf> {
    let bytes = bytes().context("built without eBPF")?;
    EbpfLoader::new()
        // Nothing in the object depends on kernel types; reading them costs megabytes.
        .btf(None)
        .map_max_entries(names::FLOWS, flows_max)
        .load(bytes)
        .context("make the maps")
}

/// Takes a map out of the object, which programs that are loaded already keep using.
pub(super) fn take<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &str,
) -> anyhow::Result<T> {
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| anyhow!("the object has no map {name}"))?;
    T::try_from(map).with_context(|| format!("use the map {name}"))
}

#[cfg(all(test, not(plumbline_no_ebpf)))]
mod tests {
    use plumbline_ebpf::names::{
        MAPS, PROGRAMS, UDP_ADDRESS, UDP_MAPS, UDP_PACKET, UDP_RECEIVE, UDP_SOCKET,
    };

    use super::{bytes, datagrams};

    #[test]
    fn the_object_has_every_name_of_the_abi() {
        let of_udp = UDP_ADDRESS
            .iter()
            .chain(&UDP_RECEIVE)
            .chain(&UDP_PACKET)
            .map(|(name, _)| *name)
            .chain(UDP_SOCKET)
            .chain(UDP_MAPS);
        for (object, names) in [
            (
                bytes(),
                PROGRAMS.into_iter().chain(MAPS).collect::<Vec<_>>(),
            ),
            (datagrams(), of_udp.collect()),
        ] {
            let object = object.unwrap();
            for name in names {
                let symbol = [b"\0", name.as_bytes(), b"\0"].concat();
                assert!(
                    object.windows(symbol.len()).any(|window| window == symbol),
                    "{name}"
                );
            }
        }
    }
}
