//! `vr-userspace`: see the library's documentation.

fn main() -> std::process::ExitCode {
    vr_userspace::cli::main()
}
