//! Sessions: what masquerade, port forwards and hairpin have to remember.

pub mod flow;
pub mod record;
pub mod track;
