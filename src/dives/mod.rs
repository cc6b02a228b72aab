//! DiVES: switches that find each other by multicast, and send frames of their VLANs to one another
//! by UDP.
//!
//! ```text
//! advert ── peers ──┐   what is announced, and who is there
//! console           │   what can be asked, and how it is answered
//!                 mesh  where frames go
//!                   │
//!                 node  all of it on sockets
//! ```
//! But for `node`, it is octets and time in, octets and addresses out.

pub mod advert;
pub mod console;
pub mod mesh;
pub mod node;
pub mod peers;
pub mod subnet;
