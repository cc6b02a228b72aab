//! Stories of the API: who may use it, what it keeps, changes and tells.

mod access;
mod browser;
mod changes;
mod console;
mod events;
mod examples;
mod exposition;
mod metrics;
mod objects;
mod ports;
mod provider;
mod stats;
mod strangers;
mod switched;
mod trunks;
mod watches;
mod webdriver;
