//! Out into the world without privileges: packets of vNICs become connections and datagrams of
//! sockets of this host. What the helper `mvirt-egress` is made of.

pub mod protocol;
