//! Kubernetes objects to what the core calls declared. Pure: no files, no network.
