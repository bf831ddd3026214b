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
    use plumbline_ebpf::names::{MAPS, PROGRAMS};

    use super::bytes;

    #[test]
    fn the_object_has_every_name_of_the_abi() {
        let object = bytes().unwrap();
        for name in PROGRAMS.iter().chain(&MAPS) {
            let symbol = [b"\0", name.as_bytes(), b"\0"].concat();
            assert!(
                object.windows(symbol.len()).any(|window| window == symbol),
                "{name}"
            );
        }
    }
}
