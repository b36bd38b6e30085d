//! Sessions: what masquerade, port forwards and hairpin have to remember.

mod bytes;
pub mod flow;
pub mod record;
pub mod track;
