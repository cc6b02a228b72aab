//! A guest's virtqueues: its rings, what goes in and out of them, and the call that wakes it.

mod aio;
pub mod call;
pub mod ring;
pub mod rx;
pub mod tx;
