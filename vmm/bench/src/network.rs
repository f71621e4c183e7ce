//! A network of the bench's own: this process moves into a new network namespace that has two taps, and nobody else's
//! network is touched. It goes away with the process.

use std::os::unix::process::CommandExt;
use std::process::Command;

use vmm::exit::{Exit, Failure};

/// The measured guest's tap.
pub(crate) const PRIMARY_TAP: &str = "bench0";
/// The tap of the backup, where the guest never runs.
pub(crate) const BACKUP_TAP: &str = "bench1";
/// Our address on the guest's network.
const ADDRESS: &str = "10.77.0.1/24";
/// Address of the guest.
pub(crate) const GUEST: &str = "10.77.0.10";

/// Says, in the environment of the process that went into the namespace, `ready` or why there is no network.
const STATE: &str = "OUTLAST_BENCH_NETWORK";

/// Goes on in a namespace of its own, as the same process: returns only where that is done or cannot be done.
pub(crate) fn enter() -> Result<(), Failure> {
    if std::env::var_os(STATE).is_some() || !can_enter() {
        return Ok(());
    }
    let ip = path_of_ip();
    let taps = format!(
        "{ip} tuntap add {PRIMARY_TAP} mode tap && {ip} tuntap add {BACKUP_TAP} mode tap && \
         {ip} addr add {ADDRESS} dev {PRIMARY_TAP} && {ip} link set {PRIMARY_TAP} up && {ip} link set {BACKUP_TAP} up"
    );
    // A namespace's interfaces are seen in /sys by who mounts it there.
    let script = format!(
        "{ip} link set lo up && mount -t sysfs sysfs /sys && why=$({{ {taps}; }} 2>&1) && why=ready; \
         export {STATE}=\"${{why:-no loopback}}\"; exec \"$@\""
    );
    let this = std::env::current_exe().map_err(|e| Failure::new(Exit::Error, format!("cannot find myself: {e}")))?;
    let mut command = Command::new("unshare");
    command.args(["-n", "-m", "sh", "-c", &script, "outlast"]).arg(this).args(std::env::args_os().skip(1));
    let error = command.exec();
    Err(Failure::new(Exit::Error, format!("cannot start `unshare`, which was there a moment ago: {error}")))
}

/// With its directory: a shell may have an `ip` of its own that knows no taps.
fn path_of_ip() -> String {
    let dirs = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&dirs).map(|dir| dir.join("ip")).find(|path| path.is_file());
    found.map_or("ip".into(), |path| path.display().to_string())
}

fn can_enter() -> bool {
    let mut probe = Command::new("unshare");
    let script = format!("{} link set lo up && mount -t sysfs sysfs /sys", path_of_ip());
    probe.args(["-n", "-m", "sh", "-c", &script]);
    probe.output().is_ok_and(|output| output.status.success())
}

/// Why there is no network for a guest; `None` if there is one.
pub(crate) fn missing() -> Option<String> {
    match std::env::var(STATE) {
        Ok(state) if state == "ready" => None,
        Ok(why) => Some(why),
        Err(_) => Some("a network namespace needs root, `unshare` and `ip`".into()),
    }
}
