//! `check`: validates only.

use std::path::Path;

use anyhow::Result;

pub fn run(config: &Path) -> Result<()> {
    let checked = super::read(config)?;
    say!(
        "{}: valid: {} interfaces, {} EIPs, {} port forwards",
        config.display(),
        checked.interfaces.len(),
        checked.eips.len(),
        checked.forwards.len()
    );
    Ok(())
}
