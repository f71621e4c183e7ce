//! The log of this process: standard error, text or JSON, level from `--log-level` or `OUTLAST_LOG`.

use std::fmt;
use std::io::IsTerminal;

use serde_json::{Map, Value};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::config::{ControlConfig, LogFormat};

/// Starts the log of a VM.
pub(super) fn start(control: &ControlConfig) {
    start_at(control.log_format, control.log_level.name());
}

/// Starts the log, at this level where `OUTLAST_LOG` names none. A second call in the same process changes nothing.
pub fn start_at(format: LogFormat, level: &str) {
    let filter = EnvFilter::try_from_env("OUTLAST_LOG").unwrap_or_else(|_| EnvFilter::new(level));
    let colours = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let log = log.with_target(false).with_ansi(colours);
    // It fails only when a log is there already, which is what was asked for.
    let _ = match format {
        LogFormat::Text => log.try_init(),
        LogFormat::Json => log.event_format(JsonLines).try_init(),
    };
}

/// Says what is risky about a configuration.
pub(super) fn warn_each(vm: &str, warnings: &[String]) {
    for warning in warnings {
        tracing::warn!(vm, "{warning}");
    }
}

/// One JSON object a line: `timestamp`, `level`, `fields`. The properties of an event are an object among the fields, not text.
struct JsonLines;

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut line: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut time = String::new();
        SystemTime.format_time(&mut Writer::new(&mut time))?;
        let mut fields = Fields::default();
        event.record(&mut fields);
        let (time, level) = (Value::from(time), Value::from(event.metadata().level().as_str()));
        writeln!(line, r#"{{"timestamp":{time},"level":{level},"fields":{}}}"#, Value::Object(fields.0))
    }
}

/// The fields of one line.
#[derive(Default)]
struct Fields(Map<String, Value>);

impl Fields {
    fn put(&mut self, field: &Field, value: impl Into<Value>) {
        self.0.insert(field.name().to_owned(), value.into());
    }
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        // `Events::note` hands over an object, and tracing has no values but plain ones.
        match serde_json::from_str::<Map<String, Value>>(&text) {
            Ok(properties) if field.name() == "properties" => self.put(field, properties),
            _ => self.put(field, text),
        }
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, value);
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, value);
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, value);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use super::*;
    use protect::events::Events;

    #[derive(Clone, Default)]
    struct Kept(Arc<Mutex<Vec<u8>>>);

    impl Write for Kept {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().expect("not poisoned").write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn json_line_has_the_properties_of_an_event_as_an_object() {
        let kept = Kept::default();
        let writer = kept.clone();
        let log = tracing_subscriber::fmt().with_writer(move || writer.clone()).event_format(JsonLines).finish();
        tracing::subscriber::with_default(log, || {
            Events::new(None).note(outlast_api::Occurrence::Booting { name: "vm0".into(), cpus: 1 });
            tracing::warn!(lost = 3_u64, path = %"{}", "no \"room\"");
        });
        let text = String::from_utf8(kept.0.lock().expect("not poisoned").clone()).expect("UTF-8");
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(
            lines[0]["fields"],
            serde_json::json!({ "event": "booting", "properties": { "name": "vm0", "cpus": 1 } })
        );
        assert_eq!(lines[1]["fields"], serde_json::json!({ "lost": 3, "path": "{}", "message": "no \"room\"" }));
        assert_eq!((&lines[1]["level"], lines.len()), (&Value::from("WARN"), 2));
        assert!(lines[0]["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{text}");
    }
}
