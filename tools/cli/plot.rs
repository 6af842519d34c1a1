//! Line charts as SVG: panels side by side, each with its own lines over one x axis. Small enough that a library would be
//! the larger part.

use std::fmt::Write;

/// Size of a panel.
const WIDTH: f64 = 420.0;
const HEIGHT: f64 = 300.0;
/// Space for labels at the left of and below the axes; half of it is left at the other sides.
const MARGIN: f64 = 56.0;
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

/// Draws panels side by side over x axes called `x_label`.
pub fn lines(x_label: &str, panels: &[Panel]) -> String {
    let width = WIDTH * panels.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {HEIGHT}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"{width}\" height=\"{HEIGHT}\" fill=\"white\"/>\n"
    );
    for (i, panel) in panels.iter().enumerate() {
        // Writing to a string cannot fail.
        let _ = writeln!(svg, "<g transform=\"translate({} 0)\">", WIDTH * i as f64);
        draw(&mut svg, x_label, panel);
        svg.push_str("</g>\n");
    }
    svg.push_str("</svg>\n");
    svg
}

fn draw(svg: &mut String, x_label: &str, panel: &Panel) {
    let points = || panel.lines.iter().flat_map(|line| &line.points);
    let (x_most, y_most) = (nice(points().map(|p| p.0)), nice(points().map(|p| p.1)));
    let (right, bottom) = (WIDTH - MARGIN / 2.0, HEIGHT - MARGIN);
    let x = |value: f64| MARGIN + (right - MARGIN) * value / x_most;
    let y = |value: f64| bottom - (bottom - MARGIN / 2.0) * value / y_most;
    let mut text = |at: (f64, f64), anchor: &str, what: &str| {
        let what = what.replace('&', "&amp;").replace('<', "&lt;");
        let _ = writeln!(svg, "<text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{what}</text>", at.0, at.1);
    };
    text((MARGIN, 16.0), "start", panel.title);
    text(((MARGIN + right) / 2.0, HEIGHT - 20.0), "middle", x_label);
    for tick in 0..=4 {
        let share = f64::from(tick) / 4.0;
        text((x(share * x_most), bottom + 14.0), "middle", &number(share * x_most));
        text((MARGIN - 6.0, y(share * y_most) + 4.0), "end", &number(share * y_most));
    }
    for (i, line) in panel.lines.iter().enumerate() {
        text((right, 16.0 + 14.0 * i as f64), "end", &line.name);
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
}
