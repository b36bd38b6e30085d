use super::Rows; pub fn rows(_: &mut Rows) {}
