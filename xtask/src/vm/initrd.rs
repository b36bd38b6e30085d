//! The file systems that the machines run from: one base for all of them, and each kernel's modules.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use super::kernel::Kernel;
use crate::{apt, apt::Apt, shell};

const INIT: &str = include_str!("../../vm/init.sh");
const TEST: &str = include_str!("../../vm/smoke.sh");

/// The modules that the program, its tests and the machine need; what they depend on comes along.
const MODULES: [&str; 10] = [
    "kernel/drivers/net/net_failover.ko",
    "kernel/drivers/net/tun.ko",
    "kernel/drivers/net/veth.ko",
    "kernel/drivers/net/virtio_net.ko",
    "kernel/drivers/virtio/",
    "kernel/net/8021q/",
    "kernel/net/bridge/",
    "kernel/net/ipv4/netfilter/",
    "kernel/net/netfilter/",
    "kernel/net/sched/",
];

/// Packs the base: busybox, `ip`, `tc`, the program, its configuration, and the scripts.
///
/// # Errors
/// When a part cannot be found or packed.
pub fn base(folder: &Path) -> Result<PathBuf> {
    let root = folder.join("base");
    let _ = fs::remove_dir_all(&root);
    for place in [
        "bin", "sbin", "dev", "proc", "sys", "run", "tmp", "etc", "var",
    ] {
        fs::create_dir_all(root.join(place))
            .with_context(|| format!("cannot create {}", root.display()))?;
    }
    fs::copy(busybox(folder)?, root.join("bin/busybox"))?;
    for link in ["bin/sh", "sbin/modprobe"] {
        symlink("/bin/busybox", root.join(link))?;
    }
    symlink("/run", root.join("var/run"))?;
    let program = shell::root().join("target/release/vr-userspace");
    for program in [Path::new("ip"), Path::new("tc"), &program] {
        add_program(program, &root)?;
    }
    fs::copy(
        shell::root().join("examples/kylin-vr.yaml"),
        root.join("kylin-vr.yaml"),
    )?;
    for (name, script) in [("init", INIT), ("test.sh", TEST)] {
        let path = root.join(name);
        fs::write(&path, script)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    }
    pack(&root, &folder.join("base.cpio"))
}

/// The archive of the base followed by this kernel's modules.
///
/// # Errors
/// When the modules cannot be unpacked or packed.
pub fn with_modules(base: &Path, kernel: &Kernel) -> Result<PathBuf> {
    let modules = kernel.folder.join("modules.cpio");
    if !modules.exists() {
        let staged = stage(kernel)?;
        let partial = pack(&staged, &kernel.folder.join("modules.partial"))?;
        fs::rename(partial, &modules)?;
        fs::remove_dir_all(&staged)?;
    }
    let initrd = base.with_file_name("initrd");
    let mut bytes = fs::read(base)?;
    bytes.extend(fs::read(&modules)?);
    fs::write(&initrd, bytes)?;
    Ok(initrd)
}

fn busybox(folder: &Path) -> Result<PathBuf> {
    let unpacked = folder.join("busybox");
    let places = ["bin/busybox", "usr/bin/busybox"].map(|place| unpacked.join(place));
    let find = || places.iter().find(|place| place.exists()).cloned();
    if let Some(busybox) = find() {
        return Ok(busybox);
    }
    let codename = apt::codename()?;
    let apt = Apt::new(&[&codename])?;
    let version = apt.versions("busybox-static")?.into_iter().next();
    let version = version.context("there is no package busybox-static")?;
    apt::unpack(&apt.download("busybox-static", &version)?, &unpacked)?;
    find().context("the package busybox-static contains no busybox")
}

/// Copies a program and the shared libraries that it is linked with.
fn add_program(program: &Path, root: &Path) -> Result<()> {
    let search = ["", "/usr/sbin", "/sbin", "/usr/bin", "/bin"]
        .map(|folder| Path::new(folder).join(program));
    let found = search
        .iter()
        .find(|path| path.is_absolute() && path.exists());
    let found = found.with_context(|| format!("{} is missing", program.display()))?;
    let name = found.file_name().context("a program has a name")?;
    fs::copy(found, root.join("bin").join(name))?;
    // ldd fails on a static program, which needs nothing.
    let text = shell::output(Command::new("ldd").arg(found)).unwrap_or_default();
    for library in libraries(&text) {
        let place = root.join(library.strip_prefix("/").unwrap_or(library));
        fs::create_dir_all(place.parent().unwrap_or(root))?;
        fs::copy(library, place).with_context(|| format!("cannot copy {}", library.display()))?;
    }
    Ok(())
}

/// The files that ldd's output names, such as `libc.so.6 => /lib/libc.so.6 (0x…)` and `/lib64/ld.so (0x…)`.
fn libraries(text: &str) -> impl Iterator<Item = &Path> {
    let words = text
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
    words.map(Path::new)
}

/// Copies the modules that are needed, uncompressed, and indexes them.
fn stage(kernel: &Kernel) -> Result<PathBuf> {
    let modules = kernel
        .modules()
        .context("the kernel's packages contain no modules")?;
    let release = modules.file_name().context("modules lie in a folder")?;
    let staged = kernel.folder.join("staged");
    let _ = fs::remove_dir_all(&staged);
    let index = |root: &Path| {
        // depmod may lie where only root looks.
        let mut depmod = Command::new(if Path::new("/sbin/depmod").exists() {
            "/sbin/depmod"
        } else {
            "depmod"
        });
        shell::run_quietly(depmod.arg("-b").arg(root).arg(release))
    };
    index(&kernel.folder)?;
    let text = fs::read_to_string(modules.join("modules.dep"))?;
    let target = staged.join("lib/modules").join(release);
    for module in closure(&text) {
        let place = target.join(module);
        fs::create_dir_all(place.parent().unwrap_or(&target))?;
        fs::copy(modules.join(module), &place)?;
        if module.ends_with(".xz") {
            shell::run_quietly(Command::new("xz").arg("-d").arg(&place))?;
        }
    }
    for list in [
        "modules.builtin",
        "modules.order",
        "modules.builtin.modinfo",
    ] {
        let _ = fs::copy(modules.join(list), target.join(list));
    }
    index(&staged)?;
    Ok(staged)
}

/// The wanted modules of a `modules.dep`, with everything that they depend on (the file lists it all).
fn closure(text: &str) -> BTreeSet<&str> {
    let dependencies: BTreeMap<&str, &str> = text
        .lines()
        .filter_map(|line| line.split_once(':'))
        .collect();
    let wanted = |path: &str| MODULES.iter().any(|module| path.starts_with(module));
    let named = dependencies.iter().filter(|(path, _)| wanted(path));
    named
        .flat_map(|(path, needs)| std::iter::once(*path).chain(needs.split_whitespace()))
        .collect()
}

fn pack(root: &Path, archive: &Path) -> Result<PathBuf> {
    let script = "find . | sort | cpio --quiet -o -H newc -R 0:0 >\"$1\"";
    let mut shell = Command::new("sh");
    shell::run_quietly(
        shell
            .current_dir(root)
            .args(["-ec", script, "sh"])
            .arg(archive),
    )?;
    Ok(archive.to_path_buf())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_read_from_ldd() {
        let text = "\tlinux-vdso.so.1 (0x00007ffd)\n\tlibc.so.6 => /lib/x/libc.so.6 (0x00007f)\n\
            \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        let found: Vec<_> = libraries(text).collect();
        assert_eq!(
            found,
            [
                Path::new("/lib/x/libc.so.6"),
                Path::new("/lib64/ld-linux-x86-64.so.2")
            ]
        );
    }

    #[test]
    fn modules_bring_what_they_depend_on() {
        let text = "kernel/drivers/net/virtio_net.ko.xz: kernel/net/core/failover.ko.xz\n\
            kernel/net/core/failover.ko.xz:\nkernel/drivers/gpu/x.ko.xz:\n";
        let found: Vec<_> = closure(text).into_iter().collect();
        assert_eq!(
            found,
            [
                "kernel/drivers/net/virtio_net.ko.xz",
                "kernel/net/core/failover.ko.xz"
            ]
        );
    }
}
