//! `aieng bench serve`, on an engine that pretends: the numbers add up, and wrong options are refused.

use crate::support::aieng;
use serde_json::Value;

const SIMULATED: [&str; 4] = ["bench", "serve", "--simulate-step-us", "300:500"];

fn run(options: &[&str]) -> Value {
    aieng(&[&SIMULATED[..], &["--json"], options].concat()).json()
}

#[test]
fn numbers_add_up() {
    let options = ["--requests", "40", "--prompt-len", "20", "--output-len", "8:12", "--concurrency", "1,8"];
    let rows = run(&[&options[..], &["--policy", "continuous,dynamic,static"]].concat());
    let rows = rows.as_array().unwrap();
    assert_eq!(rows.len(), 6);
    for row in rows {
        let number = |name: &str| row[name].as_f64().unwrap_or_else(|| panic!("{name}: {row}"));
        assert_eq!((number("completed"), number("total_input_tokens")), (40.0, 800.0));
        let output = number("total_output_tokens");
        assert!((320.0..=480.0).contains(&output), "{row}");
        assert_eq!(output, rows[0]["total_output_tokens"].as_f64().unwrap(), "every run has the same load");
        assert!((number("output_throughput") * number("duration") - output).abs() < 1e-6 * output);
        assert!(number("median_ttft_ms") >= 0.3 && number("median_ttft_ms") <= number("p99_ttft_ms"), "{row}");
        assert!(number("mean_e2el_ms") >= number("mean_ttft_ms") + 7.0 * 0.3, "{row}");
        assert!((0.0..1.0).contains(&number("scheduling_overhead")), "{row}");
    }
    let throughput = |i: usize| rows[i]["output_throughput"].as_f64().unwrap();
    assert!(throughput(1) > 2.0 * throughput(0), "eight at once are no faster than one");
}

#[test]
fn a_shared_prefix_is_cached_unless_that_is_off() {
    let options = ["--requests", "20", "--prompt-len", "16", "--shared-prefix", "160", "--output-len", "4"];
    let cached = |options: &[&str]| run(options)[0]["cached_tokens_share"].as_f64().unwrap();
    assert!(cached(&options) > 0.8);
    assert_eq!(cached(&[&options[..], &["--no-prefix-cache"]].concat()), 0.0);
}

#[test]
fn a_plot_is_drawn() {
    let path = std::env::temp_dir().join(format!("aieng-plot-{}.svg", std::process::id()));
    let file = path.to_str().unwrap();
    let options = ["--requests", "8", "--output-len", "4", "--concurrency", "1,2", "--policy", "static,continuous"];
    let table = aieng(&[&SIMULATED[..], &options, &["--plot", file]].concat());
    assert_eq!((table.code, table.stdout.lines().count()), (Some(0), 2 + 4), "{table:?}");
    let svg = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert!(svg.starts_with("<svg ") && svg.ends_with("</svg>\n"));
    assert_eq!(svg.matches("<polyline ").count(), 4);
    // Every element that is opened is closed.
    let opened = svg.matches('<').count() - svg.matches("</").count();
    assert_eq!(opened, svg.matches("/>").count() + svg.matches("</").count());
}

#[test]
fn wrong_options() {
    let cases: [(&[&str], &[&str]); 9] = [
        (&["--rate", "0"], &["--rate", "0 is not above 0"]),
        (&["--rate", "fast"], &["--rate", "fast"]),
        (&["--prompt-len", "9:3"], &["--prompt-len", "9:3"]),
        (&["--output-len", "0"], &["--output-len", "0:0"]),
        (&["--requests", "0"], &["--requests", "0"]),
        (&["--policy", "random"], &["--policy", "random"]),
        (&["--simulate-step-us", "-1"], &["-1"]),
        (&["--policy", "static", "--batch-size", "99"], &["policy.size", "99"]),
        (&["--kv-tokens", "64", "--prompt-len", "100"], &["KV cache of 64"]),
    ];
    for (options, words) in cases {
        let base = if options[0] == "--simulate-step-us" { &SIMULATED[..2] } else { &SIMULATED[..] };
        aieng(&[base, options].concat()).assert_refused(2, words);
    }
    aieng(&["bench", "-p", "5", "serve"]).assert_refused(2, &["serve"]);
}
