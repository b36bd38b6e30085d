//! A program of the router's or the bench's own behind a stage, which gives it a fresh packet for each run.

use std::os::fd::AsFd as _;

use anyhow::{Context as _, Result, ensure};
use aya::programs::{ProgramFd, ProgramInfo};
use serde_json::Value;

use super::field::{Field, From};
use super::frames::{Flow, Frames};
use super::kernel::{self, Context};
use super::object::{Kind, Object, by_id};
use super::runner::Runner;
use super::stats::Series;
use super::traffic::Traffic;
use crate::shell;

/// What a program says of a packet that it sends on.
const XDP_REDIRECT: u32 = 4;
const XDP_PASS: u32 = 2;
const TC_REDIRECT: u32 = 7;
const TC_UNSPEC: u32 = u32::MAX;

/// Frames as small as Ethernet has them, without the check sequence.
pub const SMALL: usize = 60;

/// A program behind its stage, with its packets.
pub struct Staged {
    /// What it is called in tables.
    pub name: String,
    kind: Kind,
    /// An array of programs is emptied when nobody holds it any more.
    _object: Object,
    stage: ProgramFd,
    frame: Vec<u8>,
    context: Context,
    /// What the program has to say of each.
    expected: u32,
    /// Runs of one timed call.
    pub batch: u32,
    /// Timed calls of one measurement, of which the median counts.
    pub calls: usize,
}

/// The router's programs on one interface.
pub struct Programs {
    xdp: ProgramFd,
    xdp_kind: Kind,
    tc: ProgramFd,
    ifindex: u32,
}

impl Programs {
    /// Those that an interface runs.
    pub fn of(field: &Field, from: From) -> Result<Self> {
        let router = &field.router;
        let nic = match from {
            From::Outside => &router.wan,
            From::Inside => &router.lan,
        };
        let link = said(field, "ip", &["-j", "-d", "link", "show", "dev", nic])?;
        let xdp = link[0]["xdp"]["prog"]["id"]
            .as_u64()
            .with_context(|| format!("{nic} runs no XDP program"))?;
        let xdp = by_id(xdp as u32)?;
        let is_frags = xdp.name_as_str().is_some_and(|name| name.contains("_mb"));
        Ok(Self {
            xdp: xdp.fd()?,
            xdp_kind: if is_frags { Kind::XdpFrags } else { Kind::Xdp },
            tc: Self::of_tc(field, from)?.fd()?,
            ifindex: router.ns.index(nic)?,
        })
    }

    /// The one at TC ingress alone.
    pub fn of_tc(field: &Field, from: From) -> Result<ProgramInfo> {
        let nic = match from {
            From::Outside => &field.router.wan,
            From::Inside => &field.router.lan,
        };
        let filters = said(
            field,
            "tc",
            &["-j", "filter", "show", "dev", nic, "ingress"],
        )?;
        let mut filters = filters.as_array().into_iter().flatten();
        let id = filters.find_map(|filter| filter["options"]["prog"]["id"].as_u64());
        by_id(id.with_context(|| format!("{nic} runs no TC program"))? as u32)
    }

    /// The one at a hook, and of which kind it is.
    pub fn at(&self, hook: Hook) -> (Kind, &ProgramFd) {
        match hook {
            Hook::Xdp => (self.xdp_kind, &self.xdp),
            Hook::Tc => (Kind::Tc, &self.tc),
        }
    }
}

fn said(field: &Field, program: &str, arguments: &[&str]) -> Result<Value> {
    let text = shell::output(field.router.ns.command(program)?.args(arguments))?;
    serde_json::from_str(&text).with_context(|| format!("{program} says no JSON: {text}"))
}

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// XDP.
    Xdp,
    /// TC ingress.
    Tc,
}

impl Hook {
    /// What its programs say of a packet that they send on.
    pub fn redirect(self) -> u32 {
        match self {
            Self::Xdp => XDP_REDIRECT,
            Self::Tc => TC_REDIRECT,
        }
    }

    /// What they say of a packet that they leave to the kernel.
    pub fn pass(self) -> u32 {
        match self {
            Self::Xdp => XDP_PASS,
            Self::Tc => TC_UNSPEC,
        }
    }
}

/// What is put behind a stage.
pub enum Subject<'a> {
    /// The bench's own program of this name.
    Own(&'a str),
    /// The router's.
    Router,
}

impl Staged {
    /// A subject with the frames of a traffic, all of which it has to send on.
    pub fn new(
        runner: &Runner,
        field: &Field,
        programs: &Programs,
        hook: Hook,
        name: &str,
        subject: &Subject<'_>,
        traffic: (Traffic, Vec<Flow>),
    ) -> Result<Self> {
        let (kind, router) = programs.at(hook);
        let (traffic, flows) = traffic;
        let frames = Frames {
            macs: field.macs(traffic.from()),
            length: SMALL,
            flows,
        };
        let mut object = Object::load(&runner.object, frames.flows.len(), false)?;
        let own = match subject {
            Subject::Own(name) => Some(object.program(name)?),
            Subject::Router => None,
        };
        object.go_on(kind, own.as_ref().unwrap_or(router))?;
        object.set_frames(&frames)?;
        let context = match hook {
            Hook::Xdp => Context::Xdp(programs.ifindex),
            Hook::Tc => Context::TcIngress(programs.ifindex),
        };
        Ok(Self {
            name: name.to_owned(),
            kind,
            stage: object.program(kind.stage())?,
            _object: object,
            frame: frames.first()?,
            context,
            expected: hook.redirect(),
            batch: 20_000.max(frames.flows.len() as u32),
            calls: runner.pick(9, 5),
        })
    }

    /// The same, if the program has something else to say of each.
    pub fn expecting(mut self, action: u32) -> Self {
        self.expected = action;
        self
    }

    /// Runs it so often, and returns the nanoseconds of a run.
    fn go(&self, repeat: u32) -> Result<f64> {
        let ran = kernel::test_run(self.stage.as_fd(), &self.frame, self.context, repeat)
            .with_context(|| format!("{:?}: the kernel does not run it", self.kind))?;
        ensure!(
            ran.action == self.expected,
            "{}: the program says {} where it should say {}",
            self.name,
            ran.action as i32,
            self.expected as i32
        );
        Ok(f64::from(ran.nanoseconds))
    }

    /// Runs so many flows once, the last of which must go where it should.
    pub fn check(&self, flows: u32) -> Result<()> {
        self.go(flows).map(drop)
    }

    /// Nanoseconds a packet. The last one of each call must have gone where it should: the stage has given it a fresh header.
    pub fn measure(&self) -> Result<f64> {
        let times = (0..self.calls).map(|_| self.go(self.batch));
        let times: Series = times.collect::<Result<Vec<f64>>>()?.into_iter().collect();
        Ok(times.median())
    }
}

/// Brings the sessions of a traffic about, assured by both sides, and leaves their last packet's way open.
pub fn open(runner: &Runner, field: &Field, traffic: Traffic, flows: usize) -> Result<()> {
    let Some(first) = traffic.opened_by() else {
        return Ok(());
    };
    let send = |traffic: Traffic, flows: Vec<Flow>| -> Result<()> {
        let programs = Programs::of(field, traffic.from())?;
        let count = flows.len() as u32;
        let opener = Staged::new(
            runner,
            field,
            &programs,
            Hook::Tc,
            traffic.name(),
            &Subject::Router,
            (traffic, flows),
        )?;
        field.router.ns.run(|| opener.check(count))
    };
    send(first, first.flows(flows)).context("its sessions do not begin")?;
    if matches!(first, Traffic::Masquerade) {
        let reply = Traffic::MasqueradeReply;
        send(reply, reply.flows(flows)).context("answers do not come back")?;
    }
    Ok(())
}
