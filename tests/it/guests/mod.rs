//! Stories of real guests: Linux kernels, DHCP clients, firmware, DPDK, systemd and libvirt.

mod clients;
mod cloud_init;
mod firmware;
mod golden;
mod libvirt;
mod machines;
mod package;
mod paths;
mod service;
mod testpmd;
