//! `vr-userspace run` in the lab's router, started as a service manager starts it.

use std::fs::{self, File};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::lab::Lab;

/// How long anything may take that ends well sooner or later.
pub const GENEROUS: Duration = Duration::from_secs(60);

/// How often one looks.
const TICK: Duration = Duration::from_millis(30);

/// Tries `check` until it holds; if it never does, the error is its last one.
pub fn eventually<T>(what: &str, mut check: impl FnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + GENEROUS;
    loop {
        match check() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() > deadline => {
                return Err(error).with_context(|| format!("{what}: not within {GENEROUS:?}"));
            }
            Err(_) => thread::sleep(TICK),
        }
    }
}

/// A running service, killed when it is dropped.
#[derive(Debug)]
pub struct Service {
    child: Child,
    told: Arc<Mutex<Vec<String>>>,
    log: PathBuf,
    /// Whether a test has ended it as it wanted to.
    done: bool,
}

impl Lab {
    /// Starts the service on [`Lab::config_path`] and waits until it says that it is ready.
    pub fn service(&self, backend: &str) -> Result<Service> {
        let mut command = self.vr_command()?;
        command.args(["run", "--backend", backend, "--config"]);
        command.arg(self.config_path());
        let mut service = self.start_service(command)?;
        service.wait_told("READY=1")?;
        Ok(service)
    }

    /// Starts `command`, which is [`Lab::vr_command`] with `run`, beside a socket for what it tells its manager.
    pub fn start_service(&self, mut command: Command) -> Result<Service> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let socket = self.directory().join(format!("notify-{number}"));
        let log = self.directory().join(format!("service-{number}.log"));
        let manager = UnixDatagram::bind(&socket).context("cannot bind the manager's socket")?;
        let told = Arc::default();
        listen(manager, &told);
        let file = File::create(&log)?;
        let child = command
            .env("NOTIFY_SOCKET", &socket)
            .env("KYLIN_VR_LOG", "debug")
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            .spawn()
            .context("cannot start the service")?;
        Ok(Service {
            child,
            told,
            log,
            done: false,
        })
    }
}

/// Takes in what is sent to the manager, as one that is always there does: a full socket would make the service wait. Ends
/// some time after the service has.
fn listen(manager: UnixDatagram, told: &Arc<Mutex<Vec<String>>>) {
    let told = Arc::downgrade(told);
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        manager
            .set_read_timeout(Some(Duration::from_millis(100)))
            .ok()?;
        loop {
            let length = manager.recv(&mut buffer).unwrap_or(0);
            let told = told.upgrade()?;
            let text = String::from_utf8_lossy(&buffer[..length]);
            let mut lines = told.lock().unwrap_or_else(PoisonError::into_inner);
            lines.extend(text.lines().map(str::to_owned));
        }
        #[expect(unreachable_code, reason = "says what `?` gives")]
        Some(())
    });
}

impl Service {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// All that it has told its manager, a line each.
    pub fn told(&self) -> Vec<String> {
        self.lines().clone()
    }

    /// Forgets what it has told its manager so far.
    pub fn forget_told(&self) {
        self.lines().clear();
    }

    fn lines(&self) -> MutexGuard<'_, Vec<String>> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until it has told its manager this line.
    pub fn wait_told(&mut self, line: &str) -> Result<()> {
        eventually(&format!("the service tells {line}"), || {
            let ended = self.child.try_wait()?;
            ensure!(
                self.told().iter().any(|told| told == line),
                "it told {:?}, ended {ended:?}, and logged:\n{}",
                self.told(),
                self.log()
            );
            Ok(())
        })
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(Pid::from_raw(self.child.id() as i32), signal).context("cannot send a signal")
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Result<ExitStatus> {
        eventually("the service ends", || {
            let status = self.child.try_wait()?;
            status.with_context(|| format!("it goes on, and has logged:\n{}", self.log()))
        })
    }

    /// Ends it as a manager does, which must succeed; returns its log.
    pub fn end(mut self) -> Result<String> {
        self.signal(Signal::SIGTERM)?;
        let status = self.wait()?;
        ensure!(status.success(), "{status}:\n{}", self.log());
        self.done = true;
        Ok(self.log())
    }

    /// Kills it as by `kill -9`.
    pub fn kill(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        self.done = true;
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
        if !self.done {
            // Shown by a test that fails.
            eprintln!("--- the service logged\n{}", self.log());
        }
    }
}
