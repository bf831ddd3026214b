//! What the export tests share: made-up reports, a collector double, certificates.

pub(crate) mod collector;
pub(crate) mod data;
pub(crate) mod pki;
