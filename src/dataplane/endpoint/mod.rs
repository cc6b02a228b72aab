//! Who keeps ports attached: an async task a vNIC, which listens, makes ports of what connects, and
//! takes them back.

mod channel;
pub mod listener;
pub mod vhost_user;
