//! The kernel side against exact counts: real eBPF, real pods, real traffic. As root.

mod attribution;
mod cpu;
mod flows;
mod listeners;
mod observer;
