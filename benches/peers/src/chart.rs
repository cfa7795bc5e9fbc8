//! Draws the chart of warm hits. It has a background of its own, so that it fits light and dark pages.

use std::path::Path;

use plotters::coord::ranged1d::SegmentValue;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::BoxError;
use crate::hit::Added;

const OURS: RGBColor = RGBColor(86, 156, 230);
const PEERS: RGBColor = RGBColor(185, 185, 185);

pub fn draw(path: &Path, ours: &[Added], peers: &[Added]) -> Result<(), BoxError> {
    // The chart draws its bars from the bottom upwards.
    let bars: Vec<(&Added, RGBColor)> =
        peers.iter().rev().map(|added| (added, PEERS)).chain(ours.iter().rev().map(|added| (added, OURS))).collect();
    let longest = bars.iter().map(|(added, _)| added.upper).fold(0.0, f64::max);

    let height = 110 + 34 * u32::try_from(bars.len())?;
    let root = SVGBackend::new(path, (860, height)).into_drawing_area();
    root.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&root)
        .caption("Time that authentication adds to a request: a warm hit", ("sans-serif", 18))
        .margin(12)
        .margin_right(28)
        .x_label_area_size(44)
        .y_label_area_size(210)
        .build_cartesian_2d(0.0..longest * 1.12, (0..bars.len()).into_segmented())?;
    let label = |value: &SegmentValue<usize>| match value {
        SegmentValue::CenterOf(bar) => {
            bars.get(*bar).map_or_else(String::new, |(added, _)| format!("{}\u{2002}", added.name))
        }
        _ => String::new(),
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .set_tick_mark_size(LabelAreaPosition::Left, 0)
        .light_line_style(WHITE)
        .bold_line_style(RGBColor(225, 225, 225))
        .y_labels(bars.len())
        .y_label_formatter(&label)
        .x_label_formatter(&|nanos| format!("{nanos:.0}"))
        .x_desc("nanoseconds per request, less the same request without authentication; median, quartiles as a line")
        .label_style(("sans-serif", 13))
        .axis_desc_style(("sans-serif", 13))
        .draw()?;
    for (at, (added, colour)) in bars.iter().enumerate() {
        let (from, to) = (SegmentValue::Exact(at), SegmentValue::Exact(at + 1));
        let mut bar = Rectangle::new([(0.0, from), (added.median, to)], colour.filled());
        bar.set_margin(6, 6, 0, 0);
        let middle = SegmentValue::CenterOf(at);
        let figure = TextStyle::from(("sans-serif", 13)).pos(Pos::new(HPos::Left, VPos::Center));
        chart.draw_series([bar])?;
        chart.draw_series([PathElement::new([(added.lower, middle.clone()), (added.upper, middle.clone())], BLACK)])?;
        chart.draw_series([EmptyElement::at((added.upper.max(added.median), middle))
            + Text::new(format!("{:.0}", added.median), (6, 0), figure)])?;
    }
    root.present()?;
    Ok(())
}
