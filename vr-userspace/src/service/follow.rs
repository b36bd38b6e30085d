//! Following the file and the machine: what is due, and doing it.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;
use sd_notify::NotifyState;
use tokio::time::{self, Instant};
use tracing::{debug, error, info, warn};

use super::{
    listen::{Heard, Listener},
    manager::tell,
    pace::{Came, PERIOD, PERIOD_OF_RULES, Pace, Work},
    record::{FileState, Record},
    settle::{Event, Settle, Version},
    watch::Watch,
};
use crate::{
    cli::{
        load::{amiss, note_failure, note_version, reconcile},
        situation::is_out_of_reach,
    },
    config::{self, Config},
    desired::Backend,
    instance::Instance,
    lock::Lock,
    netlink::Netlink,
    state::{Identities, State, now},
};

/// How often the file is looked at although nothing was told of it: network file systems tell nothing.
const FILE_PERIOD: Duration = Duration::from_secs(5);

/// So many of the things that are not as the file says are told of each time; thousands would hide what matters.
const LINES: usize = 20;

/// A service that runs.
pub struct Service<'a> {
    instance: &'a Instance,
    path: PathBuf,
    backend: Backend,
    netlink: Netlink,
    listener: Listener,
    watch: Watch,
    settle: Settle,
    file_period_ends: Instant,
    pace: Pace,
    /// Whether it has loaded nothing yet: until then its own backend counts, and later that on record.
    is_new: bool,
    /// What the last good file says.
    config: Option<Config>,
    /// Which content of it that was.
    version: Option<Version>,
    /// Whether that is, or was, in force: then it is somebody else's doing if it is no longer on record.
    was_loaded: bool,
    /// What waited when it was said last.
    pending: Vec<String>,
    /// Whether the service manager waits to hear that all is ready.
    owes_ready: bool,
    /// Whether a quarrel about what is put back has been spoken of.
    quarrels: bool,
    record: Record,
    written: Option<Record>,
}

impl<'a> Service<'a> {
    pub fn new(instance: &'a Instance, path: &Path, backend: Backend) -> Result<Self> {
        let path = std::path::absolute(path)?;
        let now = Instant::now();
        Ok(Self {
            instance,
            backend,
            // Before anything is read: what happens from now on is heard.
            listener: Listener::open()?,
            watch: Watch::new(&path)?,
            netlink: Netlink::open()?,
            settle: Settle::default(),
            file_period_ends: now + FILE_PERIOD,
            pace: Pace::new(now),
            config: None,
            version: None,
            is_new: true,
            was_loaded: false,
            pending: Vec::new(),
            owes_ready: true,
            quarrels: false,
            record: Record::new(&path),
            written: None,
            path,
        })
    }

    /// Waits until there may be something to do. Cancel safe.
    pub async fn wake(&mut self) -> Result<()> {
        let file_due = self.settle.due().unwrap_or(self.file_period_ends);
        let due = self.pace.due().min(file_due).min(self.file_period_ends);
        tokio::select! {
            heard = self.listener.heard() => match heard? {
                Heard::Nothing => {}
                Heard::Change => self.pace.heard(Instant::now()),
                Heard::Nics => self.pace.heard_of_nics(Instant::now()),
            },
            events = self.watch.events() => {
                for event in events? {
                    self.settle.note(event, Instant::now());
                }
            }
            () = time::sleep_until(due) => {}
        }
        Ok(())
    }

    /// After a socket broke: takes new ones, and reads everything again.
    pub async fn listen_anew(&mut self, error: &anyhow::Error) {
        warn!("{error:#}: listening anew");
        let renewed =
            || -> Result<_> { Ok((Listener::open()?, Watch::new(&self.path)?, Netlink::open()?)) };
        match renewed() {
            Ok((listener, watch, netlink)) => {
                (self.listener, self.watch, self.netlink) = (listener, watch, netlink);
            }
            Err(error) => {
                error!("{error:#}");
                time::sleep(Duration::from_secs(1)).await;
            }
        }
        self.pace.heard_of_nics(Instant::now());
        self.settle.note(Event::Replaced, Instant::now());
    }

    /// Is to read the file again, because somebody says so.
    pub fn reload(&mut self) {
        info!("told to reload");
        let mut state = vec![NotifyState::Reloading];
        state.extend(NotifyState::monotonic_usec_now().ok());
        tell(&state);
        self.owes_ready = true;
        // It may be somebody's writing just now, and half of it would be half a router.
        self.settle.insist(Instant::now());
    }

    /// Does what is due.
    pub async fn work(&mut self) {
        let now = Instant::now();
        if now >= self.file_period_ends {
            self.file_period_ends = now + FILE_PERIOD;
            self.settle.see(Version::of(&self.path), now);
        }
        if self.file_is_due() {
            self.take_file();
        }
        if self.settle.is_being_written() && self.record.file != FileState::BeingWritten {
            debug!("{} is being written", self.path.display());
            self.file_is(FileState::BeingWritten);
        }
        if let Some(work) = self.pace.now_due(now) {
            self.do_work(work).await;
        }
        self.say_what_it_is_at();
    }

    /// Whether the file is to be read now: also by what has happened to it up to this very moment.
    fn file_is_due(&mut self) -> bool {
        let is_due = |settle: &Settle| settle.due().is_some_and(|due| Instant::now() >= due);
        if !is_due(&self.settle) {
            return false;
        }
        self.note_events();
        is_due(&self.settle)
    }

    fn note_events(&mut self) {
        match self.watch.so_far() {
            Ok(events) => {
                for event in events {
                    self.settle.note(event, Instant::now());
                }
            }
            Err(error) => warn!("{error:#}"),
        }
    }

    fn file_is(&mut self, state: FileState) {
        if self.record.file != state {
            (self.record.file, self.record.file_since) = (state, now());
        }
    }

    /// Reads the file. If it is good, it is to be loaded; else what stands stays.
    pub fn take_file(&mut self) {
        let version = Version::of(&self.path);
        self.settle.take(version);
        if let Err(error) = fs::metadata(&self.path)
            && error.kind() == io::ErrorKind::NotFound
        {
            warn!(
                "{} is not there: nothing is changed until it is",
                self.path.display()
            );
            self.file_is(FileState::Missing);
            self.owes_ready_no_more();
            return;
        }
        let read = config::read(&self.path);
        self.note_events();
        if self.settle.is_being_written() {
            debug!("{} was written while it was read", self.path.display());
            return;
        }
        match read {
            Ok(accepted) => {
                for warning in &accepted.warnings {
                    warn!("{warning}");
                }
                debug!("{} is good", self.path.display());
                (self.config, self.version) = (Some(accepted.config), version);
                self.file_is(FileState::NotApplied);
                if let Some(why) = self.record.stands_back.take() {
                    info!("{why}, and now the file is to be loaded: taking over again");
                }
                // From here on the file is what counts, whoever unloaded before.
                self.was_loaded = false;
                self.pace.load(Instant::now());
            }
            Err(rejected) => {
                error!("{rejected}");
                self.file_is(FileState::Wrong);
                self.record.failed(rejected.to_string());
                // Where nothing is loaded the service's own record is enough.
                if self.instance.state_file().exists() {
                    note_failure(self.instance, &rejected.into());
                }
                self.owes_ready_no_more();
            }
        }
    }

    async fn do_work(&mut self, work: Work) {
        let began = Instant::now();
        let Some(config) = self.config.take() else {
            // There is no file to go by, and whatever stands stays.
            self.pace.done(began, Instant::now(), Came::Nothing);
            return;
        };
        let came = self.under_the_lock(work, &config).await;
        self.config = Some(config);
        let came = match came {
            Ok(Some(came)) => came,
            Ok(None) => {
                self.pace.busy(Instant::now());
                return;
            }
            Err(error) => {
                let message = format!("{error:#}");
                error!("{message}");
                self.record.failed(message);
                if let Ok(netlink) = Netlink::open() {
                    self.netlink = netlink;
                }
                Came::Failed
            }
        };
        let wait = self.pace.done(began, Instant::now(), came);
        match (came, wait) {
            (Came::Failed, Some(wait)) => info!(
                "trying again in {} s, or when the file or a NIC changes",
                wait.as_secs()
            ),
            (Came::PutBack, Some(wait)) if !self.quarrels => {
                self.quarrels = true;
                warn!(
                    "somebody keeps changing what this router has set up: it is put back ever more slowly, now after {} s, at last once a minute",
                    wait.as_secs()
                );
            }
            (_, None) => self.quarrels = false,
            _ => {}
        }
        self.owes_ready_no_more();
    }

    /// Does the work if nobody else is at work on the router; `None` if somebody is.
    async fn under_the_lock(&mut self, work: Work, config: &Config) -> Result<Option<Came>> {
        let lock = match Lock::try_take(&self.instance.lock_file())? {
            Ok(lock) => lock,
            Err(holder) => {
                debug!("{holder} is at work on this router: later");
                return Ok(None);
            }
        };
        let state = State::read(&self.instance.state_file())?;
        self.look_as_often_as_needed(&state);
        let out_of_reach =
            self.backend != Backend::Iptables && is_out_of_reach(&self.netlink, &state).await?;
        if self.stands_back(&state, out_of_reach) {
            if !self.instance.state_file().exists() {
                // Whoever unloaded took it away, and nothing of the router is to be left.
                lock.remove();
            }
            return Ok(Some(Came::Nothing));
        }
        if let Some(backend) = state.backend.filter(|_| !self.is_new)
            && backend != self.backend
        {
            info!("the backend is {backend:?} now, as somebody asked for it by `load`");
            self.backend = backend;
        }
        if work == Work::Load && Version::of(&self.path) != self.version {
            // While the lock was waited for the file was written anew, and may be loaded already by whoever did so.
            debug!("what was read of the file is no longer what is there");
            self.settle.see(Version::of(&self.path), Instant::now());
            return Ok(Some(Came::Nothing));
        }
        let mut came = Came::Followed;
        if work == Work::Look {
            if state.version != self.version {
                // Somebody was faster to read the file and load it, and must not see it taken back.
                debug!("what is in force is a content of the file that was not read here yet");
                self.settle.see(Version::of(&self.path), Instant::now());
                return Ok(Some(Came::Nothing));
            }
            let nics = state.identities.clone();
            let amiss = amiss(state, &self.netlink, config, self.backend).await?;
            if amiss.is_empty() {
                self.is_in_force();
                return Ok(Some(Came::Nothing));
            }
            for (number, line) in amiss.iter().enumerate() {
                if self.quarrels || number >= LINES {
                    debug!("not as the file says: {line}");
                } else {
                    info!("not as the file says: {line}");
                }
            }
            if let Some(more @ 1..) = amiss.len().checked_sub(LINES) {
                info!("not as the file says: {more} things more");
            }
            if self.same_nics(&nics).await {
                came = Came::PutBack;
            }
        }
        let done = reconcile(
            self.instance,
            &self.netlink,
            config,
            &self.path,
            self.backend,
        )
        .await;
        if let Err(error) = done {
            self.file_is(FileState::NotApplied);
            return Err(error);
        }
        note_version(self.instance, self.version)?;
        self.is_new = false;
        self.is_in_force();
        self.say_what_is_loaded(config, work)?;
        Ok(Some(came))
    }

    fn look_as_often_as_needed(&mut self, state: &State) {
        let by_rules = !state.netfilter.is_empty();
        self.pace
            .look_every(if by_rules { PERIOD_OF_RULES } else { PERIOD });
    }

    fn is_in_force(&mut self) {
        self.was_loaded = true;
        if matches!(self.record.file, FileState::NotApplied) {
            self.file_is(FileState::InForce);
        }
        if self.record.file == FileState::InForce {
            self.record.last_failure = None;
        }
    }

    /// Whether somebody has said that the machine is to be as this service's file does not say; or has loaded that file by programs
    /// that this service may not touch.
    fn stands_back(&mut self, state: &State, out_of_reach: bool) -> bool {
        let why = match (&state.config, state.loaded_at) {
            _ if out_of_reach && self.version.is_some() && state.version == self.version => {
                self.is_in_force();
                Some("programs do the work that this service may not look at".to_owned())
            }
            _ if !self.was_loaded => None,
            (_, None) => Some("somebody has unloaded".to_owned()),
            (Some(other), _) if !is_same(other, &self.path) => {
                Some(format!("somebody has loaded {}", other.display()))
            }
            _ => None,
        };
        if why != self.record.stands_back {
            match &why {
                Some(why) => info!(
                    "{why}: nothing is changed until {} changes, or is loaded again",
                    self.path.display()
                ),
                None => info!("{} was loaded again: following it", self.path.display()),
            }
            self.record.stands_back.clone_from(&why);
        }
        why.is_some()
    }

    /// Whether the NICs are those that are on record.
    async fn same_nics(&self, recorded: &Identities) -> bool {
        let Ok(links) = self.netlink.links().await else {
            return false;
        };
        let now = links
            .values()
            .filter_map(|link| Some((link.ifindex, link.mac?.to_string())));
        recorded.clone() == now.collect()
    }

    fn say_what_is_loaded(&mut self, config: &Config, work: Work) -> Result<()> {
        let state = State::read(&self.instance.state_file())?;
        self.look_as_often_as_needed(&state);
        if work == Work::Load {
            info!(
                "loaded: {} interfaces, {} EIPs, {} forwards",
                state.chosen.len(),
                config.eips.len(),
                config.forwards.len()
            );
        }
        for pending in state
            .pending
            .iter()
            .filter(|new| !self.pending.contains(new))
        {
            info!("pending: {pending}");
        }
        self.pending = state.pending;
        Ok(())
    }

    fn owes_ready_no_more(&mut self) {
        // What was done meanwhile is not what it was told to do.
        if !self.settle.is_insisted() && std::mem::take(&mut self.owes_ready) {
            tell(&[NotifyState::Ready]);
        }
    }

    /// Tells `status` and the service manager, if there is something new.
    fn say_what_it_is_at(&mut self) {
        if self.written.as_ref() == Some(&self.record) {
            return;
        }
        if let Err(error) = self.record.write(&self.instance.service_file()) {
            // Nobody is served by an end for that.
            warn!("{error:#}");
            return;
        }
        let words = match &self.record.stands_back {
            Some(why) => format!("{why}: standing back"),
            None => format!("{} {}", self.path.display(), self.record.file.words()),
        };
        tell(&[NotifyState::Status(&words)]);
        self.written = Some(self.record.clone());
    }
}

/// Whether two paths lead to one file, as far as can be told.
fn is_same(one: &Path, other: &Path) -> bool {
    one == other
        || matches!((fs::canonicalize(one), fs::canonicalize(other)), (Ok(one), Ok(other)) if one == other)
}
