//! `outlast bench`: what protection costs, measured side by side with the same guest unprotected.
//!
//! The bench is the primary: the machine and its guardian run in this process, as `outlast run` would run them, so that
//! their numbers are read without a way in between. The backup is a process of its own. One guest runs through a whole
//! comparison; protection is put on and taken off while it runs, and the unprotected rate is measured right before and
//! right after each protected one, because a machine that does other things too changes from second to second.
//!
//! Unless a backup on another host is given, both sides share this machine's processors and its loopback: then the cost
//! that is seen holds the backup's work too.

mod channel;
mod chart;
mod config;
mod counts;
mod flow;
mod flows;
mod load;
mod network;
mod page;
mod pause;
mod peer;
mod progress;
mod recoverable;
mod session;
mod sweep;
mod synced;
mod table;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use machine::allocations::Counting;
use vmm::config::LogFormat;

use config::{BenchConfig, BenchKind};
use sweep::Question;
use vmm::exit::{Exit, Failure};

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn main() -> ExitCode {
    vmm::process::begin();
    match BenchConfig::try_parse() {
        Ok(config) => vmm::exit::report(run(&config)),
        Err(error) => vmm::cli::refuse(&error),
    }
}

/// Measures what `config` asks for and writes the results.
fn run(config: &BenchConfig) -> Result<Exit, Failure> {
    if let Some(option) = config.stray_option() {
        let kind = config.kind.to_possible_value().expect("every question has a name");
        return Err(Failure::new(Exit::Usage, format!("`bench {}` takes no {option}", kind.get_name()))
            .with_hint("`outlast bench --help` shows which question takes it"));
    }
    // Protection comes and goes by the hundred here: only what fails is worth a line.
    vmm::cli::logging::start_at(LogFormat::Text, "error");
    std::fs::create_dir_all(&config.out).map_err(|error| cannot("make the directory", &config.out, &error))?;
    match config.kind {
        BenchKind::EpochSweep | BenchKind::LocalSweep => {
            if config.tap.is_none() {
                network::enter()?;
            }
            sweep::run(config, if config.kind == BenchKind::LocalSweep { Question::Local } else { Question::Backup })?;
        }
        BenchKind::Network => {
            if config.tap.is_none() {
                network::enter()?;
            }
            flows::run(config)?;
        }
        BenchKind::Counts => {
            if config.tap.is_none() {
                network::enter()?;
            }
            return counts::run(config);
        }
        BenchKind::Pause => pause::run(config)?,
        BenchKind::Channel => channel::run(config)?,
        BenchKind::Recoverable => recoverable::run(config)?,
        BenchKind::SyncedWrites => {
            if config.kernel.is_some() && config.tap.is_none() {
                network::enter()?;
            }
            synced::run(config)?;
        }
    }
    vmm::cli::print(format!("{}\n", config.out.join("index.html").display()).as_bytes())?;
    Ok(Exit::Ok)
}

/// The failure of doing `what` to the file or directory `path`.
fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::new(Exit::Error, format!("cannot {what} {}: {error}", path.display()))
}

/// Where bare guests are looked for: what was asked for, else `$OUTLAST_BARE`, else beside the build of this program.
fn guests_dir(config: &BenchConfig) -> PathBuf {
    let from_environment = || std::env::var_os("OUTLAST_BARE").map(PathBuf::from);
    let beside = || Some(std::env::current_exe().ok()?.parent()?.parent()?.join("bare"));
    config.guests.clone().or_else(from_environment).or_else(beside).unwrap_or_else(|| "target/bare".into())
}

/// The file of bare guest `name`.
fn bare_guest(config: &BenchConfig, name: &str) -> Result<PathBuf, Failure> {
    let dir = guests_dir(config);
    let path = dir.join(name);
    if path.is_file() {
        return Ok(path);
    }
    Err(Failure::new(Exit::NotFound, format!("there is no bare guest {}", path.display())).with_hint(format!(
        "`guest-images/bare/build {0}` and `guest-images/bulk/build {0}` make them; --guests DIR or OUTLAST_BARE names another directory",
        dir.display()
    )))
}

/// Names this program by its content: results of another build are not continued.
fn build_id() -> Result<String, Failure> {
    use std::hash::{DefaultHasher, Hasher};
    let path = std::env::current_exe().map_err(|error| cannot("find", Path::new("/proc/self/exe"), &error))?;
    let bytes = std::fs::read(&path).map_err(|error| cannot("read", &path, &error))?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&bytes);
    Ok(format!("{:016x}", hasher.finish()))
}
