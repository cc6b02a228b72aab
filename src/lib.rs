//! mvirt-net
pub mod addr;
pub mod dataplane;
pub mod wire;
