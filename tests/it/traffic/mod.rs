//! Stories of frames: forwarded, answered, refused, finished, limited.

mod drops;
mod explain;
mod forwarding;
mod guard;
mod lease;
mod limits;
mod offload;
mod reported;
mod segment;
mod tap;
