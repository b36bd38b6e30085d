//! Watches a file by the directories on the way to it, so that nothing is missed: files written in place, renamed over,
//! removed, there only later, in a directory that is there only later, or behind symbolic links that are swapped.

use std::{
    collections::{HashMap, VecDeque},
    ffi::{OsStr, OsString},
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, RawFd},
        unix::fs::MetadataExt,
    },
    path::{Component, Path, PathBuf},
};

use anyhow::{Context, Result};
use nix::{
    errno::Errno,
    sys::inotify::{AddWatchFlags, InitFlags, Inotify, InotifyEvent, WatchDescriptor},
};
use tokio::io::{Interest, unix::AsyncFd};

use super::settle::Event;

/// As many symbolic links as the kernel follows.
const MOST_LINKS: usize = 40;

/// A watch on a file, whether or not it is there.
#[derive(Debug)]
pub struct Watch {
    inotify: AsyncFd<Raw>,
    path: PathBuf,
    names: HashMap<WatchDescriptor, Vec<Name>>,
}

/// A name in a directory that is on the way to the file.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Name {
    dir: PathBuf,
    name: OsString,
    /// Whether it is the file's own.
    is_last: bool,
}

impl Name {
    /// Whether what was just created here is the file itself, made by opening it, so that its maker will close it: not a
    /// symbolic link, and not one more name of a file that is there.
    fn is_fresh(&self) -> bool {
        self.is_last
            && fs::symlink_metadata(self.dir.join(&self.name))
                .is_ok_and(|meta| meta.is_file() && meta.nlink() == 1)
    }
}

#[derive(Debug)]
struct Raw(Inotify);

impl AsRawFd for Raw {
    fn as_raw_fd(&self) -> RawFd {
        self.0.as_fd().as_raw_fd()
    }
}

impl Watch {
    /// Begins to watch the file at the absolute path `path`.
    ///
    /// # Errors
    /// If there are no inotify instances left (`fs.inotify.max_user_instances`).
    pub fn new(path: &Path) -> Result<Self> {
        let inotify = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC)
            .context("cannot watch files (fs.inotify.max_user_instances?)")?;
        // SAFETY: the descriptor is that of `inotify`, which owns it as long as it lives and never takes another.
        let inotify = unsafe { AsyncFd::register_with_interest(Raw(inotify), Interest::READABLE) }
            .map_err(io::Error::from)?;
        let mut watch = Self {
            inotify,
            path: path.to_owned(),
            names: HashMap::new(),
        };
        watch.walk();
        Ok(watch)
    }

    /// Waits until something happens, and returns what did. Cancel safe: what is not taken in stays.
    ///
    /// # Errors
    /// If the watch is broken.
    pub async fn events(&mut self) -> Result<Vec<Event>> {
        let mut ready = self.inotify.readable().await?;
        ready.clear_ready();
        drop(ready);
        self.so_far()
    }

    /// What has happened and was not returned yet.
    ///
    /// # Errors
    /// If the watch is broken.
    pub fn so_far(&mut self) -> Result<Vec<Event>> {
        let mut told = Vec::new();
        loop {
            match self.inotify.get_ref().0.read_events() {
                Ok(events) => told.extend(events),
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error).context("cannot watch the file"),
            }
        }
        let events: Vec<Event> = told
            .iter()
            .filter_map(|event| self.meaning(event))
            .collect();
        if events.contains(&Event::Replaced) {
            self.walk();
        }
        Ok(events)
    }

    fn meaning(&self, event: &InotifyEvent) -> Option<Event> {
        use AddWatchFlags as F;
        if event.mask.contains(F::IN_Q_OVERFLOW) {
            return Some(Event::Replaced);
        }
        let names = self.names.get(&event.wd)?;
        if event
            .mask
            .intersects(F::IN_DELETE_SELF | F::IN_MOVE_SELF | F::IN_UNMOUNT | F::IN_IGNORED)
        {
            return Some(Event::Replaced);
        }
        let name = names
            .iter()
            .filter(|name| event.name.as_deref() == Some(&name.name))
            .max_by_key(|name| name.is_last)?;
        let mask = event.mask;
        if mask.intersects(F::IN_MODIFY | F::IN_CLOSE_WRITE) {
            let closed = mask.contains(F::IN_CLOSE_WRITE);
            return name.is_last.then_some(if closed {
                Event::Closed
            } else {
                Event::Written
            });
        }
        Some(if mask.contains(F::IN_CREATE) && name.is_fresh() {
            Event::Written
        } else {
            Event::Replaced
        })
    }

    /// Watches all directories on the way, as far as there is one, and none else.
    fn walk(&mut self) {
        let inotify = &self.inotify.get_ref().0;
        let mut names: HashMap<WatchDescriptor, Vec<Name>> = HashMap::new();
        // What comes into being on the way while it is walked would be missed: until nothing new is there.
        for _ in 0..MOST_LINKS {
            let places = places(&self.path);
            let last = places.len().saturating_sub(1);
            let before = names.len();
            for (at, (dir, name)) in places.into_iter().enumerate() {
                let mut mask = AddWatchFlags::IN_CREATE
                    | AddWatchFlags::IN_DELETE
                    | AddWatchFlags::IN_MOVE
                    | AddWatchFlags::IN_DELETE_SELF
                    | AddWatchFlags::IN_MOVE_SELF
                    | AddWatchFlags::IN_ONLYDIR;
                if at == last {
                    mask |= AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_CLOSE_WRITE;
                }
                // Gone, or not to be read: then the way ends before it, and the slow look is left.
                if let Ok(wd) = inotify.add_watch(&dir, mask) {
                    let name = Name {
                        dir,
                        name,
                        is_last: at == last,
                    };
                    let there = names.entry(wd).or_default();
                    if !there.contains(&name) {
                        there.push(name);
                    }
                }
            }
            if names.len() == before {
                break;
            }
        }
        for old in self.names.keys().filter(|wd| !names.contains_key(wd)) {
            // Gone already, mostly.
            let _ = inotify.rm_watch(*old);
        }
        self.names = names;
    }
}

/// Each name on the way to `path`, with the directory that it is in, symbolic links followed, up to the first that is
/// not there; that one is the last.
fn places(path: &Path) -> VecDeque<(PathBuf, OsString)> {
    let mut places = VecDeque::new();
    let mut dir = PathBuf::from("/");
    let mut rest: VecDeque<OsString> = components(path);
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        if name == ".." {
            dir.pop();
            continue;
        }
        let at = dir.join(&name);
        places.push_back((dir.clone(), name));
        let Ok(meta) = fs::symlink_metadata(&at) else {
            break;
        };
        if !meta.is_symlink() {
            dir = at;
            continue;
        }
        links += 1;
        let Some(target) = fs::read_link(&at).ok().filter(|_| links <= MOST_LINKS) else {
            break;
        };
        if target.is_absolute() {
            dir = PathBuf::from("/");
        }
        for part in components(&target).into_iter().rev() {
            rest.push_front(part);
        }
    }
    places
}

fn components(path: &Path) -> VecDeque<OsString> {
    path.components()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name),
            Component::ParentDir => Some(OsStr::new("..")),
            _ => None,
        })
        .map(OsStr::to_owned)
        .collect()
}

#[cfg(test)]
mod tests;
