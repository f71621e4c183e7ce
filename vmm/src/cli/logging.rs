//! The log of this process: standard error, text or JSON, level from `OUTLAST_LOG`.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts the log. A second call in the same process changes nothing.
pub(super) fn start(format: LogFormat) {
    start_at(format, "info");
}

/// The same with another level where `OUTLAST_LOG` names none.
pub(super) fn start_at(format: LogFormat, level: &str) {
    let filter = EnvFilter::try_from_env("OUTLAST_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let log = log.with_target(false).with_ansi(colours);
    // It fails only when a log is there already, which is what was asked for.
    let _ = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.json().try_init(),
    };
}

/// Says what is risky about a configuration.
pub(super) fn warn_each(vm: &str, warnings: &[String]) {
    for warning in warnings {
        tracing::warn!(vm, "{warning}");
    }
}
