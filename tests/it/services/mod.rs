//! Stories of what a gateway serves beside addresses.

mod names;
