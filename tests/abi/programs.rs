//! C programs that link libaieng.so.

use crate::support::{link_folder, model, root, scratch, succeed};
use std::path::PathBuf;
use std::process::Command;

/// A question whose greedy answer no token is close to missing (all margins above 0.3 nats), and which the model ends.
const PROMPT: &str = "Q: What is 12 + 30?\nA:";
const ANSWER: &str = " 12 + 30 = 42\n\nThe answer is: 42";

/// Compiles tests/c/NAME.c and links it as a user does.
fn program(name: &str) -> PathBuf {
    let program = scratch(name).join(name);
    let mut command = Command::new("gcc");
    command.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-g", "-pthread", "-I"]);
    command.arg(root().join("include")).arg(root().join("tests/c").join(name).with_extension("c"));
    command.arg("-L").arg(link_folder()).arg("-laieng").arg("-o").arg(&program);
    succeed(command.arg(format!("-Wl,-rpath,{}", link_folder().display())));
    program
}

#[test]
fn misuse_without_a_model_is_refused() {
    let program = program("errors");
    let folder = scratch("errors-files");
    std::fs::write(folder.join("empty"), "").expect("written");
    std::fs::write(folder.join("noise"), "This is no model.\n".repeat(100)).expect("written");
    succeed(Command::new(program).arg(folder));
}

#[test]
fn every_part_works_on_the_simulated_device() {
    succeed(&mut Command::new(program("surface")));
}

#[test]
fn requests_are_checked_and_events_are_whole() {
    let Some(model) = model("requests_are_checked_and_events_are_whole", "smollm2-135m") else { return };
    succeed(Command::new(program("requests")).arg(model));
}

#[test]
fn several_requests_stream_at_once() {
    let Some(model) = model("several_requests_stream_at_once", "smollm2-135m") else { return };
    let printed =
        succeed(Command::new(program("stream")).arg(model).args([PROMPT, "The capital of France is", PROMPT]));
    let mut texts = [const { String::new() }; 4];
    let mut ends = [const { String::new() }; 4];
    for line in printed.lines() {
        let (number, rest) = line.split_once('\t').expect("number and event");
        let number: usize = number.parse().expect("number");
        match rest.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
            Some(text) => texts[number].push_str(&text.replace("\\n", "\n")),
            None => ends[number].push_str(rest),
        }
    }
    assert_eq!([&texts[0], &texts[2]], [ANSWER, ANSWER], "{printed}");
    assert!(texts[1].starts_with(" Paris.\n\nThe"), "{printed}");
    assert!(ends[0] == ends[2] && ends[0].starts_with("stop "), "{printed}");
    assert!(ends[1] == "length 48" || ends[1].starts_with("stop "), "{printed}");
    assert!(ends[3].starts_with("cancelled "), "{printed}");
    // Streamed, not delivered at the end: the requests' lines are mixed.
    let first_end = printed.find("\tstop").expect("an end");
    assert!((0..4).all(|number| printed[..first_end].contains(&format!("{number}\t\""))), "{printed}");
}
