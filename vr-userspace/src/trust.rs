//! Which files root may believe and write: none that another user could have put there.
//!
//! Run files lie in a directory that only its owner can write, so nobody else can place a link in it. The configuration may be
//! a link, as operators like it, but not one of another user's: he could lead it to any file of the machine's, whose lines
//! an error message would then show.

use std::{
    collections::VecDeque,
    ffi::{OsStr, OsString},
    fs::{self, DirBuilder, File},
    io::{self, Write as _},
    os::{
        fd::OwnedFd,
        unix::{
            ffi::OsStrExt as _,
            fs::{DirBuilderExt as _, PermissionsExt as _},
        },
    },
    path::{Component, Path, PathBuf},
};

use nix::{
    errno::Errno,
    fcntl::{OFlag, open, openat, readlinkat},
    sys::{
        stat::{FileStat, Mode, SFlag, fstat},
        statfs::{PROC_SUPER_MAGIC, fstatfs},
    },
    unistd::geteuid,
};

/// As many as the kernel follows.
const MOST_LINKS: u32 = 40;
/// Write permission of the group and of everybody.
const WRITE_OF_OTHERS: u32 = 0o022;

/// Makes the directory of run files if it is not there, for its owner to write and everybody to read.
///
/// # Errors
/// If it cannot be made.
pub fn make_run_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(dir)
}

/// Opens the directory of run files.
///
/// # Errors
/// If it is not there, is a link, belongs to another user, or can be written by others than its owner.
pub fn run_dir(dir: &Path) -> io::Result<OwnedFd> {
    let flags = OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let opened = open(dir, flags, Mode::empty())?;
    let stat = fstat(&opened)?;
    if !is_trusted(stat.st_uid) {
        return Err(untrusted(dir, &format!("belongs to user {}", stat.st_uid)));
    }
    if stat.st_mode & WRITE_OF_OTHERS != 0 {
        return Err(untrusted(dir, "can be written by other users"));
    }
    Ok(opened)
}

/// Opens a run file, never through a link. Everybody may read what is made.
///
/// # Errors
/// Those of [`run_dir`]; what the kernel says.
pub fn run_file(path: &Path, flags: OFlag) -> io::Result<File> {
    open_run_file(path, flags, 0o644)
}

/// Opens a lock, or makes it: root's only, since who may read a file may lock it, and keep all others waiting.
///
/// # Errors
/// As [`run_file`].
pub fn lock_file(path: &Path) -> io::Result<File> {
    const MODE: u32 = 0o600;
    let file = open_run_file(path, OFlag::O_RDWR | OFlag::O_CREAT, MODE)?;
    // Or an older version has made it.
    file.set_permissions(fs::Permissions::from_mode(MODE))?;
    Ok(file)
}

fn open_run_file(path: &Path, flags: OFlag, mode: u32) -> io::Result<File> {
    let dir = run_dir(path.parent().unwrap_or(Path::new("/")))?;
    let name = path.file_name().unwrap_or_default();
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    Ok(openat(&dir, name, flags, Mode::from_bits_truncate(mode))?.into())
}

/// Writes a run file, whole or not at all.
///
/// # Errors
/// As [`run_file`].
pub fn replace(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let new = half_written(path);
    // A run that was killed may have left one. Made anew, so that it is no link to anything.
    take_away(&new)?;
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL;
    run_file(&new, flags)?.write_all(bytes)?;
    fs::rename(new, path)
}

/// What a run file is called while [`replace`] writes it.
#[must_use]
pub fn half_written(path: &Path) -> PathBuf {
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    new.into()
}

/// Removes a run file, if it is there.
///
/// # Errors
/// If it cannot be removed.
pub fn take_away(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Opens a file for reading, through links of root's and one's own only. With it comes why somebody else than root may have
/// written it, if one may: that is the reader's to say, since the guest agent gives every file that it makes mode 666.
///
/// # Errors
/// If a link on the way belongs to another user; if it is a named pipe; what the kernel says.
pub fn open_to_read(path: &Path) -> io::Result<(File, Option<String>)> {
    let mut walk = Walk::new(&std::path::absolute(path)?)?;
    loop {
        let Some(step) = walk.left.pop_front() else {
            return Err(io::ErrorKind::IsADirectory.into());
        };
        let last = walk.left.is_empty();
        let look = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let found = openat(&walk.dir, step.as_os_str(), look, Mode::empty())?;
        let stat = fstat(&found)?;
        if !is_link(&stat) {
            if last {
                // Opening one waits for a writer, who may never come.
                if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFIFO {
                    return Err(io::Error::other("it is a pipe"));
                }
                let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let file = openat(&walk.dir, step.as_os_str(), flags, Mode::empty())?;
                return Ok(walk.opened(file));
            }
            // Whoever cannot pass a folder cannot write what is in it.
            walk.private |= is_trusted(stat.st_uid) && stat.st_mode & 0o001 == 0;
            walk.dir = found;
            continue;
        }
        if !is_trusted(stat.st_uid) {
            let what = format!("is a link of user {}, which is not followed", stat.st_uid);
            return Err(untrusted(Path::new(&step), &what));
        }
        walk.links += 1;
        if walk.links > MOST_LINKS {
            return Err(Errno::ELOOP.into());
        }
        // Those of /proc lead to what no path names (`/dev/stdin`, a shell's `<(…)`), and nobody can place them.
        if fstatfs(&found)?.filesystem_type() == PROC_SUPER_MAGIC {
            let flags = if last { OFlag::O_RDONLY } else { OFlag::O_PATH };
            let target = openat(
                &walk.dir,
                step.as_os_str(),
                flags | OFlag::O_CLOEXEC,
                Mode::empty(),
            )?;
            if last {
                return Ok(walk.opened(target));
            }
            walk.dir = target;
        } else {
            let target = readlinkat(&walk.dir, step.as_os_str())?;
            walk.insert(Path::new(&target))?;
        }
    }
}

fn doubt(file: &OwnedFd, private: bool) -> Option<String> {
    let stat = fstat(file).ok()?;
    // A pipe, say, is whoever's the caller has connected.
    if SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT != SFlag::S_IFREG {
        return None;
    }
    if !is_trusted(stat.st_uid) {
        return Some(format!(
            "belongs to user {}, who decides with it what root does here: `chown root` it",
            stat.st_uid
        ));
    }
    (stat.st_mode & 0o002 != 0 && !private)
        .then(|| "can be written by every user of this machine: `chmod o-w` it".to_owned())
}

/// A path that is being walked.
struct Walk {
    dir: OwnedFd,
    left: VecDeque<OsString>,
    links: u32,
    /// Whether a folder on the way lets nobody else pass.
    private: bool,
}

impl Walk {
    fn new(path: &Path) -> io::Result<Self> {
        let mut walk = Self {
            dir: root()?,
            left: VecDeque::new(),
            links: 0,
            private: false,
        };
        walk.insert(path)?;
        Ok(walk)
    }

    fn opened(&self, file: OwnedFd) -> (File, Option<String>) {
        let doubt = doubt(&file, self.private);
        (file.into(), doubt)
    }

    /// Puts a link's target before what is left.
    fn insert(&mut self, target: &Path) -> io::Result<()> {
        if target.has_root() {
            self.dir = root()?;
            self.private = false;
        }
        for component in target.components().rev() {
            let name = match component {
                Component::Normal(name) => name,
                Component::ParentDir => OsStr::from_bytes(b".."),
                _ => continue,
            };
            self.left.push_front(name.to_owned());
        }
        Ok(())
    }
}

fn root() -> io::Result<OwnedFd> {
    Ok(open("/", OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?)
}

fn is_link(stat: &FileStat) -> bool {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT == SFlag::S_IFLNK
}

fn is_trusted(uid: u32) -> bool {
    uid == 0 || uid == geteuid().as_raw()
}

fn untrusted(path: &Path, what: &str) -> io::Error {
    let message = format!("{} {what}", path.display());
    io::Error::new(io::ErrorKind::PermissionDenied, message)
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        io::Read as _,
        os::unix::fs::{PermissionsExt as _, lchown, symlink},
    };

    use super::*;

    /// `nobody`, on every distribution.
    const NOBODY: u32 = 65534;

    fn read(path: &Path) -> io::Result<String> {
        let mut text = String::new();
        open_to_read(path)?.0.read_to_string(&mut text)?;
        Ok(text)
    }

    #[test]
    fn ones_own_links_are_followed_wherever_they_lead() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        fs::write(at("sub/file"), "x").unwrap();
        symlink("sub/file", at("relative")).unwrap();
        symlink(at("relative"), at("absolute")).unwrap();
        symlink("sub", at("directory")).unwrap();
        symlink("../relative", at("sub/up")).unwrap();
        for name in [
            "sub/file",
            "relative",
            "absolute",
            "directory/file",
            "sub/../sub/up",
        ] {
            assert_eq!(read(&at(name)).unwrap(), "x", "{name}");
        }
        symlink("loop", at("loop")).unwrap();
        assert_eq!(
            read(&at("loop")).unwrap_err().raw_os_error(),
            Some(libc::ELOOP)
        );
        assert_eq!(
            read(&at("none")).unwrap_err().kind(),
            io::ErrorKind::NotFound
        );
    }

    #[test]
    fn what_proc_leads_to_is_read() {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), "x").unwrap();
        use std::os::fd::AsRawFd as _;
        let path = format!("/proc/self/fd/{}", file.as_file().as_raw_fd());
        assert_eq!(read(Path::new(&path)).unwrap(), "x");
    }

    #[test]
    fn another_users_link_is_not_followed() {
        if !geteuid().is_root() {
            eprintln!("SKIPPED: it needs root");
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), "secret").unwrap();
        for (link, target) in [("file-link", "file"), ("dir-link", ".")] {
            let link = dir.path().join(link);
            symlink(target, &link).unwrap();
            lchown(&link, Some(NOBODY), Some(NOBODY)).unwrap();
        }
        for name in ["file-link", "dir-link/file"] {
            let error = read(&dir.path().join(name)).unwrap_err();
            assert!(error.to_string().contains("user 65534"), "{error}");
        }
    }

    #[test]
    fn a_directory_that_others_can_write_holds_no_run_files() {
        let dir = tempfile::tempdir().unwrap();
        let run = dir.path().join("a/run");
        make_run_dir(&run).unwrap();
        run_dir(&run).unwrap();
        for mode in [0o777, 0o775, 0o1777] {
            fs::set_permissions(&run, fs::Permissions::from_mode(mode)).unwrap();
            let error = run_dir(&run).unwrap_err().to_string();
            assert!(error.contains("written by other users"), "{error}");
        }
        let link = dir.path().join("link");
        symlink("a", &link).unwrap();
        assert!(run_dir(&link).is_err());
    }

    #[test]
    fn a_file_that_others_may_have_written_is_doubted() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "x").unwrap();
        let doubt = |of_folder, of_file| {
            for (path, mode) in [(dir.path(), of_folder), (path.as_path(), of_file)] {
                fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
            }
            open_to_read(&path).unwrap().1
        };
        assert_eq!(doubt(0o755, 0o644), None);
        assert!(doubt(0o755, 0o666).unwrap().contains("chmod o-w"));
        // What the guest agent makes, in the folder that the packages make.
        assert_eq!(doubt(0o750, 0o666), None);
    }
}
