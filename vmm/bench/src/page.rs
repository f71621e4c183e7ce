//! One page that shows the charts and says what is seen: a single file, with the charts in it.

use std::fmt::Write as _;
use std::path::Path;

use crate::cannot;
use crate::chart::Chart;
use crate::config::BenchConfig;
use crate::table::Spread;
use vmm::exit::Failure;

/// A question with its answer.
pub(crate) struct Section {
    /// The question.
    pub(crate) title: String,
    /// File name of its chart, without `.svg`, and the chart.
    pub(crate) chart: Option<(&'static str, Chart)>,
    /// What is seen, in words; each a paragraph.
    pub(crate) seen: Vec<String>,
    /// Column heads and rows.
    pub(crate) table: Option<(Vec<String>, Vec<Vec<String>>)>,
}

/// A page.
pub(crate) struct Page {
    pub(crate) title: String,
    pub(crate) intro: Vec<String>,
    pub(crate) sections: Vec<Section>,
}

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;color:#1c1c1c;background:#fff;max-width:62rem;\
margin:2rem auto;padding:0 1rem}h1{font-size:1.7rem}h2{font-size:1.25rem;margin-top:2.4rem}\
svg{max-width:100%;height:auto;border:1px solid #e2e2e2}table{border-collapse:collapse;font-size:.9rem;margin:1rem 0}\
th,td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid #e2e2e2}th:first-child,td:first-child{text-align:left}\
th{background:#f5f5f5}.scroll{overflow-x:auto}";

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl Page {
    /// Draws the charts into the directory of `config` and writes `index.html` beside them.
    pub(crate) fn write(&self, config: &BenchConfig) -> Result<(), Failure> {
        let mut html = format!(
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
             <meta name=\"viewport\" content=\"width=device-width\"><style>{STYLE}</style></head>\n<body><h1>{title}</h1>\n",
            title = escape(&self.title)
        );
        paragraphs(&mut html, &self.intro);
        for section in &self.sections {
            html += &format!("<h2>{}</h2>\n", escape(&section.title));
            if let Some((name, chart)) = &section.chart {
                let path = config.out.join(format!("{name}.svg"));
                if chart.draw(&path)? {
                    html += &std::fs::read_to_string(&path).map_err(|error| cannot("read", &path, &error))?;
                }
            }
            paragraphs(&mut html, &section.seen);
            if let Some((heads, rows)) = &section.table {
                table(&mut html, heads, rows);
            }
        }
        html += "</body></html>\n";
        let path = config.out.join("index.html");
        std::fs::write(&path, html).map_err(|error| cannot("write", &path, &error))
    }
}

fn paragraphs(html: &mut String, texts: &[String]) {
    for text in texts {
        writeln!(html, "<p>{}</p>", escape(text)).expect("writing to a String cannot fail");
    }
}

fn table(html: &mut String, heads: &[String], rows: &[Vec<String>]) {
    let line = |cells: &[String], tag: &str| {
        let cells: String = cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect();
        format!("<tr>{cells}</tr>\n")
    };
    html.push_str("<div class=\"scroll\"><table>\n");
    html.push_str(&line(heads, "th"));
    rows.iter().for_each(|row| html.push_str(&line(row, "td")));
    html.push_str("</table></div>\n");
}

/// This machine and how busy it was, in a sentence.
pub(crate) fn machine(loads: Option<Spread>) -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let cpuinfo = read("/proc/cpuinfo");
    let model =
        cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": ").map(|(_, name)| name));
    let processors = std::thread::available_parallelism().map_or(0, usize::from);
    let kernel = read("/proc/sys/kernel/osrelease");
    let busy = loads.map_or(String::new(), |loads| {
        format!(
            " While it was measured, the load average of one minute was between {:.1} and {:.1}: it counts what was \
             measured, and whatever else ran.",
            loads.min, loads.max
        )
    });
    format!(
        "The machine: {}, {processors} processors, Linux {}.{busy}",
        model.unwrap_or("an unnamed processor"),
        kernel.trim()
    )
}

/// Writes a CSV file whose fields hold no commas.
pub(crate) fn write_csv(path: &Path, heads: &[String], rows: &[Vec<String>]) -> Result<(), Failure> {
    let lines = std::iter::once(heads).chain(rows.iter().map(Vec::as_slice)).map(|fields| fields.join(",") + "\n");
    std::fs::write(path, lines.collect::<String>()).map_err(|error| cannot("write", path, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_page_is_escaped() {
        let mut html = String::new();
        paragraphs(&mut html, &["a < b & c".into()]);
        assert_eq!(html, "<p>a &lt; b &amp; c</p>\n");
    }
}
