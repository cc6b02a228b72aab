//! Who keeps ports attached: an async task a vNIC, which listens, makes ports of what connects, and
//! takes them back.

mod channel;
pub mod listener;
mod lockout;
pub mod vhost_user;
