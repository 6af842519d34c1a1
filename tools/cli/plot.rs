//! Charts as SVG, in panels side by side: lines over one x axis, or horizontal bars. Small enough that a library would be
//! the larger part.

use std::fmt::Write;

/// Size of a panel.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 300.0;
/// Space for labels at the left of and below the axes; half of it is left at the other sides.
const MARGIN: f64 = 56.0;
/// From one bar's top to the next one's.
const BAR: f64 = 20.0;
/// Colours that can be told apart by most (Okabe and Ito).
const COLOURS: [&str; 6] = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"];

/// A named line.
#[derive(Debug)]
pub struct Line {
    pub name: String,
    /// (x, y), in the order in which they are joined.
    pub points: Vec<(f64, f64)>,
}

/// Lines with a common y axis, which begins at 0.
#[derive(Debug)]
pub struct Panel<'a> {
    pub title: &'a str,
    pub lines: Vec<Line>,
}

/// A named amount.
#[derive(Debug)]
pub struct Bar {
    pub name: String,
    /// Not below 0.
    pub value: f64,
    /// What stands behind the bar: the value in words.
    pub note: String,
}

/// Bars from the top to the bottom, the longest as wide as the panel.
#[derive(Debug)]
pub struct BarPanel {
    pub title: String,
    pub bars: Vec<Bar>,
}

/// Draws panels side by side over x axes called `x_label`.
pub fn lines(x_label: &str, panels: &[Panel]) -> String {
    side_by_side(HEIGHT, panels, |svg, panel| draw_lines(svg, x_label, panel))
}

/// Draws panels side by side.
pub fn bars(panels: &[BarPanel]) -> String {
    let most = panels.iter().map(|panel| panel.bars.len()).max().unwrap_or(0);
    side_by_side(MARGIN / 2.0 + BAR * (most as f64 + 1.0), panels, draw_bars)
}

/// A picture of this height; `draw` adds each panel with its upper left corner at 0, 0.
fn side_by_side<P>(height: f64, panels: &[P], draw: impl Fn(&mut String, &P)) -> String {
    let width = WIDTH * panels.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"{width}\" height=\"{height}\" fill=\"white\"/>\n"
    );
    for (i, panel) in panels.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = writeln!(svg, "<g transform=\"translate({} 0)\">", WIDTH * i as f64);
        draw(&mut svg, panel);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

fn text(svg: &mut String, at: (f64, f64), anchor: &str, what: &str) {
    let what = what.replace('&', "&amp;").replace('<', "&lt;");
    let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{what}</text>", at.0, at.1);
}

fn draw_bars(svg: &mut String, panel: &BarPanel) {
    let longest = panel.bars.iter().map(|bar| bar.value).fold(f64::MIN_POSITIVE, f64::max);
    let (left, widest) = (1.5 * MARGIN, WIDTH - 3.5 * MARGIN);
    text(svg, (MARGIN / 4.0, 16.0), "start", &panel.title);
    for (i, bar) in panel.bars.iter().enumerate() {
        let (top, width) = (MARGIN / 2.0 + BAR * i as f64, widest * bar.value / longest);
        let (height, colour) = (BAR - 4.0, COLOURS[i % COLOURS.len()]);
        let _ = writeln!(
            svg,
            "<rect x=\"{left:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{colour}\"/>"
        );
        text(svg, (left - 6.0, top + 12.0), "end", &bar.name);
        text(svg, (left + width + 6.0, top + 12.0), "start", &bar.note);
    }
}

fn draw_lines(svg: &mut String, x_label: &str, panel: &Panel) {
    let points = || panel.lines.iter().flat_map(|line| &line.points);
    let (x_most, y_most) = (nice(points().map(|p| p.0)), nice(points().map(|p| p.1)));
    let (right, bottom) = (WIDTH - MARGIN / 2.0, HEIGHT - MARGIN);
    let x = |value: f64| MARGIN + (right - MARGIN) * value / x_most;
    let y = |value: f64| bottom - (bottom - MARGIN / 2.0) * value / y_most;
    text(svg, (MARGIN, 16.0), "start", panel.title);
    text(svg, ((MARGIN + right) / 2.0, HEIGHT - 20.0), "middle", x_label);
    for tick in 0..=4 {
        let share = f64::from(tick) / 4.0;
        text(svg, (x(share * x_most), bottom + 14.0), "middle", &number(share * x_most));
        text(svg, (MARGIN - 6.0, y(share * y_most) + 4.0), "end", &number(share * y_most));
    }
    for (i, line) in panel.lines.iter().enumerate() {
        text(svg, (right, 16.0 + 14.0 * i as f64), "end", &line.name);
    }
    for tick in 0..=4 {
        let at = y(f64::from(tick) / 4.0 * y_most);
        let _ = writeln!(svg, "<path d=\"M{MARGIN} {at:.1}H{right}\" stroke=\"#ddd\"/>");
    }
    for (i, line) in panel.lines.iter().enumerate() {
        let colour = COLOURS[i % COLOURS.len()];
        let joined: Vec<String> = line.points.iter().map(|p| format!("{:.1},{:.1}", x(p.0), y(p.1))).collect();
        let _ = writeln!(svg, "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\"/>", joined.join(" "));
        for (px, py) in &line.points {
            let _ = writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>", x(*px), y(*py));
        }
        let mark = 12.0 + 14.0 * i as f64;
        let _ = writeln!(svg, "<circle cx=\"{:.1}\" cy=\"{mark:.1}\" r=\"4\" fill=\"{colour}\"/>", right + 10.0);
    }
}

/// A round number that none of these exceeds; 1 if there are none above 0.
fn nice(values: impl Iterator<Item = f64>) -> f64 {
    let most = values.filter(|v| v.is_finite()).fold(0.0, f64::max);
    if most <= 0.0 {
        return 1.0;
    }
    let unit = 10f64.powf(most.log10().floor());
    [1.0, 2.0, 4.0, 6.0, 8.0, 10.0].into_iter().map(|n| n * unit).find(|n| *n >= most).unwrap_or(most)
}

fn number(value: f64) -> String {
    if value >= 100.0 || value.fract() == 0.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        assert_eq!(nice([3.0, 17.0].into_iter()), 20.0);
        assert_eq!(nice([0.03].into_iter()), 0.04);
        assert_eq!(nice([f64::NAN, 0.0].into_iter()), 1.0);
        assert_eq!((number(250.0), number(2.5)), ("250".to_owned(), "2.50".to_owned()));
    }

    #[test]
    fn a_chart_holds_its_lines() {
        let line = Line { name: "a<b".into(), points: vec![(1.0, 5.0), (4.0, 10.0)] };
        let svg = lines("x & y", &[Panel { title: "t", lines: vec![line] }]);
        assert!(svg.contains("a&lt;b") && svg.contains("x &amp; y"));
        assert_eq!((svg.matches("<g ").count(), svg.matches("</g>").count()), (1, 1));
        assert!(svg.contains("points=\"140.0,"), "{svg}");
    }

    #[test]
    fn bars_are_as_long_as_their_values() {
        let bar = |name: &str, value| Bar { name: name.into(), value, note: format!("{value}") };
        let svg = bars(&[
            BarPanel { title: "t".into(), bars: vec![bar("a", 1.0), bar("b", 4.0), bar("c", 2.0)] },
            BarPanel { title: "u".into(), bars: Vec::new() },
        ]);
        let number = |text: &str| text.split('"').next().and_then(|w| w.parse().ok()).expect("a number");
        // The first rectangle is the background.
        let widths: Vec<f64> = svg.split(" width=\"").skip(2).map(number).collect();
        assert_eq!(widths.len(), 3, "{svg}");
        assert!((widths[0] * 4.0 - widths[1]).abs() < 0.3 && (widths[0] * 2.0 - widths[2]).abs() < 0.2, "{widths:?}");
        assert_eq!(svg.matches("<g ").count(), 2);
    }
}
