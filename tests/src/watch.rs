//! Every packet that arrives anywhere, checked in full.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::capture::Capture;
use crate::checksum::check_checksums;
use crate::lab::{Lab, NIC};
use crate::view::{View, describe, ip_packet};

/// Captures at the ends of all hosts, to check every packet that came there.
#[derive(Debug)]
pub struct Watch(Vec<Capture>);

impl Watch {
    /// Starts to watch all hosts of `lab`.
    pub fn start(lab: &Lab) -> Result<Watch> {
        let hosts = [&lab.client1, &lab.client2, &lab.vm1, &lab.vm2, &lab.vm3];
        let captures = hosts.iter().map(|host| Capture::start(host, NIC));
        Ok(Watch(captures.collect::<Result<_>>()?))
    }

    /// Checks the checksums of all IPv4 packets that arrived, and that there were at least so many.
    pub fn finish(self, least: usize) -> Result<()> {
        self.finish_with(least, |_| Ok(()))
    }

    /// As [`Watch::finish`], with a check of one's own for each packet.
    pub fn finish_with(self, least: usize, check: impl Fn(&View<'_>) -> Result<()>) -> Result<()> {
        let mut count = 0;
        for capture in self.0 {
            for frame in capture.all(Duration::from_millis(20))? {
                if ip_packet(&frame).is_ok() {
                    count += 1;
                    check_checksums(&frame)
                        .and_then(|()| check(&View::of(&frame)?))
                        .with_context(|| describe(&frame))?;
                }
            }
        }
        ensure!(count >= least, "only {count} packets were seen");
        Ok(())
    }
}
