//! What the stories of `tests/it` are told with: the daemon and its command line, guests in this
//! process and real ones, frames, and programs that stand in the way.

pub(crate) mod certificates;
pub(crate) mod command;
pub(crate) mod daemon;
pub(crate) mod driver;
pub(crate) mod events;
pub(crate) mod frames;
pub(crate) mod frontend;
pub(crate) mod guest;
pub(crate) mod hostile;
pub(crate) mod innocents;
pub(crate) mod inside;
pub(crate) mod lab;
pub(crate) mod lan;
pub(crate) mod machine;
pub(crate) mod name_server;
pub(crate) mod namespace;
pub(crate) mod network;
pub(crate) mod numbered;
pub(crate) mod random;
pub(crate) mod rude;
pub(crate) mod segments;
pub(crate) mod service_manager;
pub(crate) mod streams;
