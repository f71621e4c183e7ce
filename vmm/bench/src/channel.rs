//! What the ways to a backup carry, one beside the other: a unix socket, TCP, and TLS over TCP, on this machine's loopback.
//!
//! Both ends are threads of this process, so its processor time is that of both. Repetitions go round the channels, so that a machine
//! that is busy for a while is busy for all of them; a ratio is of one repetition.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use protect::transport::{Connection, Credentials, Endpoint, READ_BYTES_MIN, ReadOutcome};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};

use crate::config::BenchConfig;
use crate::page::{Page, Section, machine};
use crate::progress::Progress;
use crate::sweep::load_average;
use crate::table::{Columns, Row, Spread, Table};
use crate::{build_id, cannot};
use vmm::exit::{Exit, Failure};

const KEY: &[&str] = &["build", "channel", "repeat"];
const FIGURES: &[&str] = &["mb_per_s", "cpu_us_per_mb", "round_trip_us", "load_1min"];
const COLUMNS: Columns = Columns { key: KEY, figures: &[FIGURES] };
const CHANNELS: [&str; 3] = ["unix", "tcp", "tls"];

/// Given to a connection at a time, as the primary does with an epoch's frames.
const PIECE_BYTES: usize = 256 << 10;
/// A heartbeat or an ack with its header.
const SMALL_BYTES: usize = 72;
const ROUND_TRIPS: u32 = 2000;
const WAIT: Duration = Duration::from_secs(10);

/// Measures and reports.
pub(crate) fn run(config: &BenchConfig) -> Result<(), Failure> {
    let build = build_id()?;
    let mut table = Table::open(&config.out.join("channel.csv"), COLUMNS)?;
    let repeats = config.repeat.unwrap_or(if config.quick { 3 } else { 7 });
    let bytes: usize = if config.quick { 256 << 20 } else { 1 << 30 };
    let work = Work::new(&config.out.join("channel-work"))?;
    let progress = Progress::new(CHANNELS.len() * repeats as usize, 0);
    for (repeat, channel) in (0..repeats).flat_map(|repeat| CHANNELS.map(|channel| (repeat, channel))) {
        let key = [&build, channel, &repeat.to_string()].map(str::to_owned).to_vec();
        if table.has(&key) {
            continue;
        }
        progress.begin(channel);
        let figures = work.measure(channel, bytes).map_err(|error| {
            Failure::new(Exit::Error, format!("the channel {channel} broke while it was measured: {error}"))
        })?;
        let row = Row { key, figures: FIGURES.iter().copied().zip(figures).collect() };
        progress.done(channel, &format!("{:.0} MB/s", row.get("mb_per_s")));
        table.add(row)?;
    }
    drop(progress);
    let rows: Vec<Row> = table.rows().iter().filter(|row| row.key[0] == build).cloned().collect();
    report(config, &rows)
}

/// What the channels need of this host: a directory for a socket and certificates, which goes with the measurement.
struct Work {
    dir: PathBuf,
    credentials: Credentials,
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

impl Work {
    fn new(dir: &Path) -> Result<Self, Failure> {
        let failed = |error: &io::Error| cannot("write certificates into", dir, error);
        fs::create_dir_all(dir).and_then(|()| write_certificates(dir)).map_err(|error| failed(&error))?;
        Ok(Self { dir: dir.to_owned(), credentials: Credentials::open(dir)? })
    }

    fn connect(&self, channel: &str) -> io::Result<(Connection, Connection)> {
        let (place, credentials) = match channel {
            "unix" => (Endpoint::Unix(self.dir.join("sock")), None),
            "tcp" => (loopback(), None),
            _ => (loopback(), Some(&self.credentials)),
        };
        let (mut listener, here) = place.listen(credentials)?;
        let begun = Instant::now();
        thread::scope(|scope| {
            let ours = scope.spawn(|| here.connect(credentials));
            let theirs = loop {
                match listener.accept() {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock && begun.elapsed() < WAIT => {
                        thread::yield_now()
                    }
                    other => break other?,
                }
            };
            Ok((ours.join().expect("connecting does not panic")?, theirs))
        })
    }

    /// The figures of one channel.
    fn measure(&self, channel: &str, bytes: usize) -> io::Result<[f64; 4]> {
        let (ours, theirs) = self.connect(channel)?;
        let (ours, theirs, round_trip) = round_trips(ours, theirs)?;
        let (begin, processor) = (Instant::now(), processor_time());
        stream(ours, theirs, bytes)?;
        let (elapsed, used) = (begin.elapsed(), processor_time() - processor);
        let megabytes = bytes as f64 / 1e6;
        Ok([
            megabytes / elapsed.as_secs_f64(),
            used.as_secs_f64() * 1e6 / megabytes,
            round_trip.as_secs_f64() * 1e6,
            load_average(),
        ])
    }
}

fn loopback() -> Endpoint {
    Endpoint::Tcp { host: "127.0.0.1".into(), port: 0, is_clear: false }
}

/// Small messages there and back; the mean of their times.
fn round_trips(mut ours: Connection, mut theirs: Connection) -> io::Result<(Connection, Connection, Duration)> {
    thread::scope(|scope| {
        let echo = scope.spawn(move || -> io::Result<Connection> {
            for _ in 0..ROUND_TRIPS {
                read(&mut theirs, SMALL_BYTES)?;
                theirs.writer.write_all(&[1; SMALL_BYTES])?;
            }
            Ok(theirs)
        });
        let begin = Instant::now();
        for _ in 0..ROUND_TRIPS {
            ours.writer.write_all(&[1; SMALL_BYTES])?;
            read(&mut ours, SMALL_BYTES)?;
        }
        let time = begin.elapsed() / ROUND_TRIPS;
        Ok((ours, echo.join().expect("an echo does not panic")?, time))
    })
}

/// So many bytes one way, as fast as they go.
fn stream(ours: Connection, mut theirs: Connection, bytes: usize) -> io::Result<()> {
    let Connection { mut writer, .. } = ours;
    thread::scope(|scope| {
        let hears = scope.spawn(move || read(&mut theirs, bytes));
        let piece: Vec<u8> = (0..PIECE_BYTES).map(|at| ((at * 31) >> 3) as u8).collect();
        let mut left = bytes;
        while left > 0 {
            let now = left.min(PIECE_BYTES);
            writer.write_all(&piece[..now])?;
            left -= now;
        }
        hears.join().expect("a reader does not panic")
    })
}

fn read(connection: &mut Connection, bytes: usize) -> io::Result<()> {
    let mut buffer = vec![0; if bytes > PIECE_BYTES { PIECE_BYTES } else { READ_BYTES_MIN }];
    let mut left = bytes;
    while left > 0 {
        match connection.reader.read_within(&mut buffer, WAIT)? {
            ReadOutcome::Bytes(count) => left -= count,
            ReadOutcome::Nothing => return Err(io::ErrorKind::TimedOut.into()),
            ReadOutcome::End => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
    Ok(())
}

/// Of this process.
fn processor_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::try_from(time).expect("a clock of processor time begins at zero")
}

/// A TLS directory for this host's loopback, of an authority that signs nothing else.
fn write_certificates(dir: &Path) -> io::Result<()> {
    let failed = |error: rcgen::Error| io::Error::other(error);
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().map_err(failed)?).map_err(failed)?;
    fs::write(dir.join("ca-cert.pem"), authority.pem())?;
    for (role, usage) in
        [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)]
    {
        let mut params = CertificateParams::new(vec!["127.0.0.1".into()]).map_err(failed)?;
        params.extended_key_usages = vec![usage];
        let key = KeyPair::generate().map_err(failed)?;
        let certificate = params.signed_by(&key, &authority).map_err(failed)?;
        fs::write(dir.join(format!("{role}-cert.pem")), certificate.pem())?;
        let mut file = snapshot::private::create_new(&dir.join(format!("{role}-key.pem")))?;
        file.write_all(key.serialize_pem().as_bytes())?;
    }
    Ok(())
}

fn report(config: &BenchConfig, rows: &[Row]) -> Result<(), Failure> {
    let of = |channel: &'static str, figure: &'static str| {
        Spread::of(rows.iter().filter(move |row| row.key[1] == channel).map(move |row| row.get(figure)))
    };
    let heads = ["channel", "MB/s", "processor, both ends, µs per MB", "round trip of 72 bytes, µs"];
    let told = |spread: Option<Spread>| {
        spread.map_or_else(String::new, |s| format!("{:.1} ({:.1} to {:.1})", s.median, s.min, s.max))
    };
    let line = |channel: &'static str| {
        let figures = FIGURES[..3].iter().map(|figure| told(of(channel, figure)));
        std::iter::once(channel.to_owned()).chain(figures).collect()
    };
    let ratio = |figure: &'static str| {
        Spread::of(rows.iter().filter(|row| row.key[1] == "tls").filter_map(move |tls| {
            let tcp = rows.iter().find(|row| row.key[1] == "tcp" && row.key[2] == tls.key[2])?;
            Some(tls.get(figure) / tcp.get(figure))
        }))
    };
    let ratios =
        |figure| ratio(figure).map_or_else(String::new, |s| format!("{:.2} ({:.2} to {:.2})", s.median, s.min, s.max));
    let seen = format!(
        "TLS against TCP, in the same repetition: throughput {}, processor time {}, round trip {}.",
        ratios("mb_per_s"),
        ratios("cpu_us_per_mb"),
        ratios("round_trip_us"),
    );
    vmm::cli::print(format!("{seen}\n").as_bytes())?;
    Page {
        title: "What the ways to a backup carry".into(),
        intro: vec![
            "One connection on this machine's loopback, written to in pieces of 256 KiB. Figures are medians of the repetitions, with the \
             smallest and the largest."
                .into(),
            machine(of("tcp", "load_1min")),
        ],
        sections: vec![Section {
            title: "What does encryption cost?".into(),
            chart: None,
            seen: vec![seen],
            table: Some((heads.map(str::to_owned).to_vec(), CHANNELS.map(line).to_vec())),
        }],
    }
    .write(config)
}
