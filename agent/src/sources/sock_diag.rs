//! The kernel's own list of sockets (`NETLINK_SOCK_DIAG`), one network namespace at a time. A helper of sources, without
//! state and without facts.
//!
//! - [`message`]: requests and answers as bytes (pure). [`socket`]: asks, with bounds.
//! - [`netns`]: which network namespaces there are, and a way into each that leaves nobody inside.
//!
//! Listing needs no right. Entering a foreign network namespace needs `CAP_SYS_ADMIN`. The owner of a socket is known since
//! Linux 5.8 (`INET_DIAG_CGROUP_ID`), and is the cgroup of its creator.

pub(crate) mod message;
pub(crate) mod netns;
pub(crate) mod socket;
