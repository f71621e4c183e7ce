//! Line charts as SVG: one question each, axes with units, a legend beside the plot.

use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::table::Spread;
use vmm::exit::{Exit, Failure};

const PLOT_SIZE: (u32, u32) = (730, 460);
/// Of a letter in the legend, on average and a little more, in pixels; and what stands before the text.
const LETTER_WIDTH: u32 = 8;
const LEGEND_INDENT: u32 = 46;
const FONT: &str = "sans-serif";
/// Told apart by people who do not see all colours, and in grey by their lightness.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 90, 181),
    RGBColor(213, 94, 0),
    RGBColor(0, 145, 105),
    RGBColor(180, 60, 140),
    RGBColor(150, 110, 0),
    RGBColor(70, 165, 220),
    RGBColor(90, 90, 90),
];

/// How a quantity is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scale {
    Linear,
    Log,
}

/// One line of a chart.
#[derive(Debug, Clone)]
pub(crate) struct Series {
    pub(crate) name: String,
    /// Position across (see [`Chart::ticks`]), and what was seen there.
    pub(crate) points: Vec<(f64, Spread)>,
    /// Dashed and without whiskers: something to compare with.
    pub(crate) is_reference: bool,
}

impl Series {
    /// A measured line.
    pub(crate) fn new(name: impl Into<String>, points: Vec<(f64, Spread)>) -> Self {
        Self { name: name.into(), points, is_reference: false }
    }
}

/// A range whose labelled places are given.
struct Axis {
    low: f64,
    high: f64,
    ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        let share = (value - self.low) / (self.high - self.low);
        limit.0 + (share * f64::from(limit.1 - limit.0)).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> std::ops::Range<f64> {
        self.low..self.high
    }
}

/// A chart.
#[derive(Debug, Clone)]
pub(crate) struct Chart {
    pub(crate) title: String,
    pub(crate) x_label: String,
    pub(crate) y_label: String,
    /// Positions across that have a name, in order: these and no others are labelled.
    pub(crate) ticks: Vec<(f64, String)>,
    pub(crate) y_scale: Scale,
    /// A horizontal line with a name: an aim, or the unprotected guest.
    pub(crate) mark: Option<(f64, String)>,
    pub(crate) series: Vec<Series>,
}

impl Chart {
    /// Draws it into `path`. Nothing is drawn if there are no points.
    pub(crate) fn draw(&self, path: &Path) -> Result<bool, Failure> {
        if self.series.iter().all(|series| series.points.is_empty()) || self.ticks.is_empty() {
            return Ok(false);
        }
        let area = SVGBackend::new(path, self.size()).into_drawing_area();
        self.draw_on(&area)
            .and_then(|()| area.present().map_err(|error| error.to_string()))
            .map_err(|error| Failure::new(Exit::Error, format!("cannot draw {}: {error}", path.display())))?;
        Ok(true)
    }

    /// The plot, and beside it room for the longest name.
    fn size(&self) -> (u32, u32) {
        let names = self.series.iter().map(|series| &series.name).chain(self.mark.as_ref().map(|(_, name)| name));
        let letters = names.map(|name| name.chars().count()).max().unwrap_or(0) as u32;
        (PLOT_SIZE.0 + LEGEND_INDENT + letters * LETTER_WIDTH, PLOT_SIZE.1)
    }

    fn draw_on(&self, area: &DrawingArea<SVGBackend<'_>, Shift>) -> Result<(), String> {
        let text = |error: DrawingAreaErrorKind<std::io::Error>| error.to_string();
        area.fill(&WHITE).map_err(text)?;
        let (plot, legend) = area.split_horizontally(PLOT_SIZE.0);
        let (low, high) = self.y_range();
        let y_ticks = self.y_ticks(low, high);
        let xs = self.x_range();
        let mut chart = ChartBuilder::on(&plot)
            .caption(&self.title, (FONT, 19))
            .margin(10)
            .x_label_area_size(46)
            .y_label_area_size(74)
            .build_cartesian_2d(
                Axis { low: xs.start, high: xs.end, ticks: self.ticks.iter().map(|(x, _)| *x).collect() },
                Axis { low, high, ticks: y_ticks },
            )
            .map_err(text)?;
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(226, 226, 226))
            .axis_style(RGBColor(120, 120, 120))
            .label_style((FONT, 14))
            .axis_desc_style((FONT, 15))
            .x_desc(&self.x_label)
            .y_desc(&self.y_label)
            .x_label_formatter(&|x| self.tick_name(*x))
            .y_label_formatter(&|y| short(self.value_at(*y)))
            .draw()
            .map_err(text)?;
        if let Some((at, _)) = &self.mark {
            let y = self.position_of(*at);
            let line = DashedLineSeries::new(
                [(xs_low(&self.ticks), y), (xs_high(&self.ticks), y)],
                6,
                4,
                BLACK.mix(0.6).into(),
            );
            chart.draw_series(line).map_err(text)?;
        }
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let middle: Vec<_> = series.points.iter().map(|(x, s)| (*x, self.position_of(s.median))).collect();
            if series.is_reference {
                let line = DashedLineSeries::new(middle, 5, 4, colour.stroke_width(2));
                chart.draw_series(line).map_err(text)?;
                continue;
            }
            let joined = middle.iter().copied().filter(|(x, _)| !self.stands_apart(*x));
            chart.draw_series(LineSeries::new(joined, colour.stroke_width(2))).map_err(text)?;
            chart.draw_series(middle.iter().map(|at| Circle::new(*at, 4, colour.filled()))).map_err(text)?;
            let whiskers = series.points.iter().filter(|(_, s)| s.max > s.min);
            let whiskers = whiskers.map(|(x, s)| {
                PathElement::new([(*x, self.position_of(s.min)), (*x, self.position_of(s.max))], colour.stroke_width(1))
            });
            chart.draw_series(whiskers).map_err(text)?;
        }
        self.draw_legend(&legend).map_err(text)
    }

    fn draw_legend(
        &self,
        area: &DrawingArea<SVGBackend<'_>, Shift>,
    ) -> Result<(), DrawingAreaErrorKind<std::io::Error>> {
        let style = (FONT, 14).into_font().color(&BLACK).pos(Pos::new(HPos::Left, VPos::Center));
        let mut y = 56;
        for (index, series) in self.series.iter().enumerate() {
            let colour = COLOURS[index % COLOURS.len()];
            let width = if series.is_reference { 1 } else { 3 };
            area.draw(&PathElement::new([(6, y), (30, y)], colour.stroke_width(width)))?;
            if !series.is_reference {
                area.draw(&Circle::new((18, y), 4, colour.filled()))?;
            }
            area.draw(&Text::new(series.name.clone(), (38, y), style.clone()))?;
            y += 24;
        }
        if let Some((_, name)) = &self.mark {
            area.draw(&PathElement::new([(6, y), (14, y)], BLACK.mix(0.6)))?;
            area.draw(&PathElement::new([(20, y), (28, y)], BLACK.mix(0.6)))?;
            area.draw(&Text::new(name.clone(), (38, y), style.clone()))?;
        }
        Ok(())
    }

    /// The last tick may be a place of its own, like `auto` behind the lengths in ms: no line leads to it.
    fn stands_apart(&self, x: f64) -> bool {
        self.ticks.last().is_some_and(|(last, name)| *last == x && name.parse::<f64>().is_err())
    }

    fn tick_name(&self, x: f64) -> String {
        self.ticks.iter().find(|(tick, _)| *tick == x).map_or(String::new(), |(_, name)| name.clone())
    }

    fn position_of(&self, value: f64) -> f64 {
        match self.y_scale {
            Scale::Linear => value,
            Scale::Log => value.max(1e-3).log10(),
        }
    }

    fn value_at(&self, y: f64) -> f64 {
        match self.y_scale {
            Scale::Linear => y,
            Scale::Log => 10f64.powf(y),
        }
    }

    fn x_range(&self) -> std::ops::Range<f64> {
        xs_low(&self.ticks)..xs_high(&self.ticks)
    }

    fn y_range(&self) -> (f64, f64) {
        let values = self.series.iter().flat_map(|series| &series.points).flat_map(|(_, s)| [s.min, s.max]);
        let values = values.chain(self.mark.iter().map(|(at, _)| *at)).map(|value| self.position_of(value));
        let (mut low, mut high) = (f64::INFINITY, f64::NEG_INFINITY);
        values.for_each(|value| (low, high) = (low.min(value), high.max(value)));
        match self.y_scale {
            Scale::Log => (low - 0.1, high + 0.1),
            Scale::Linear => {
                let pad = ((high - low) * 0.08).max(high.abs() * 0.02).max(1e-6);
                // Zero belongs on the axis unless that would flatten everything against the top.
                let floor = if low >= 0.0 && low < high / 2.0 { 0.0 } else { low - pad };
                (floor, high + pad)
            }
        }
    }

    fn y_ticks(&self, low: f64, high: f64) -> Vec<f64> {
        match self.y_scale {
            Scale::Linear => linear_ticks(low, high),
            Scale::Log => log_ticks(low, high),
        }
    }
}

fn xs_low(ticks: &[(f64, String)]) -> f64 {
    ticks.first().map_or(0.0, |(x, _)| *x) - 0.35
}

fn xs_high(ticks: &[(f64, String)]) -> f64 {
    ticks.last().map_or(1.0, |(x, _)| *x) + 0.35
}

/// Five or so round numbers.
fn linear_ticks(low: f64, high: f64) -> Vec<f64> {
    let rough = (high - low) / 5.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= rough);
    let step = step.unwrap_or(power * 10.0);
    let first = (low / step).ceil() as i64;
    let last = (high / step).floor() as i64;
    (first..=last).map(|n| n as f64 * step).collect()
}

/// 1, 2, 5, 10, 20, … or only powers of ten if these would be too many; as exponents of ten.
fn log_ticks(low: f64, high: f64) -> Vec<f64> {
    let factors: &[f64] = match high - low {
        decades if decades < 2.2 => &[1.0, 2.0, 5.0],
        decades if decades < 3.5 => &[1.0, 3.0],
        _ => &[1.0],
    };
    let decades = low.floor() as i32..=high.ceil() as i32;
    let all = decades.flat_map(|decade| factors.iter().map(move |factor| f64::from(decade) + factor.log10()));
    all.filter(|tick| (low..=high).contains(tick)).collect()
}

/// A number in as few characters as an axis or a sentence needs.
pub(crate) fn short(value: f64) -> String {
    let magnitude = value.abs();
    match magnitude {
        _ if !value.is_finite() => "–".into(),
        m if m >= 9_999_500.0 => format!("{:.0} M", value / 1e6),
        m if m >= 999_950.0 => format!("{:.1} M", value / 1e6),
        m if m >= 9_999.5 => format!("{:.0} k", value / 1e3),
        m if m >= 99.95 || (m - m.round()).abs() < 1e-6 => format!("{value:.0}"),
        m if m >= 9.995 => format!("{value:.1}"),
        _ => {
            let text = format!("{value:.2}");
            if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_within_their_range() {
        assert_eq!(linear_ticks(0.0, 10.0), vec![0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(linear_ticks(0.97, 1.21).len(), 5);
        let ticks: Vec<f64> = log_ticks(0.0, 1.05).iter().map(|t| 10f64.powf(*t).round()).collect();
        assert_eq!(ticks, vec![1.0, 2.0, 5.0, 10.0]);
        assert_eq!(log_ticks(0.0, 6.0).len(), 7);
    }

    #[test]
    fn short_numbers_keep_three_digits() {
        let texts: Vec<String> = [0.0, 1.05, 1.5, 12.34, 123.4, 12_345.0, 1_234_567.0].map(short).into();
        assert_eq!(texts, ["0", "1.05", "1.5", "12.3", "123", "12 k", "1.2 M"]);
    }

    #[test]
    fn chart_without_points_is_not_drawn() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("c.svg");
        let mut chart = Chart {
            title: "t".into(),
            x_label: "x".into(),
            y_label: "y".into(),
            ticks: vec![(0.0, "1".into()), (1.0, "auto".into())],
            y_scale: Scale::Log,
            mark: Some((1.0, "unprotected".into())),
            series: vec![Series::new("s", Vec::new())],
        };
        assert!(!chart.draw(&path).expect("nothing to do"));
        let spread = Spread { median: 2.0, min: 1.0, max: 30.0, count: 3 };
        chart.series[0].points = vec![(0.0, spread), (1.0, spread)];
        assert!(chart.draw(&path).expect("it can be drawn"));
        let svg = std::fs::read_to_string(&path).expect("it is there");
        assert!(svg.contains("auto") && svg.contains("unprotected"));
    }
}
