//! Who types a command, for what is recorded of it.

/// The user and the host, for people. Through `sudo` it is who called that.
pub(super) fn author() -> String {
    let named =
        ["SUDO_USER", "USER"].into_iter().find_map(|name| std::env::var(name).ok().filter(|user| !user.is_empty()));
    let user = named.unwrap_or_else(|| format!("uid {}", rustix::process::getuid().as_raw()));
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    format!("{user} on {}", host.trim())
}
