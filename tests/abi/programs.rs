//! C programs that link libaieng.so.

use crate::support::{library, link_folder, model, root, scratch, succeed, succeed_alone};
use std::path::PathBuf;
use std::process::Command;

/// A question whose greedy answer no token is close to missing (all margins above 0.3 nats), and which the model ends.
const PROMPT: &str = "Q: What is 12 + 30?\nA:";
const ANSWER: &str = " 12 + 30 = 42\n\nThe answer is: 42";

/// Compiles tests/c/NAME.c and links it as a user does. What follows a dash is only to tell tests apart, which run at once.
fn program(name: &str) -> PathBuf {
    let program = scratch(name).join(name);
    let name = name.split('-').next().unwrap_or(name);
    let mut command = Command::new("gcc");
    command.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-g", "-pthread", "-I"]);
    command.arg(root().join("include")).arg(root().join("tests/c").join(name).with_extension("c"));
    command.arg("-L").arg(link_folder()).args(["-laieng", "-ldl"]).arg("-o").arg(&program);
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

#[test]
fn the_library_can_be_loaded_and_unloaded_a_hundred_times() {
    succeed(Command::new(program("reload")).arg(library()));
}

#[test]
fn a_program_has_its_first_token_soon() {
    let Some(model) = model("a_program_has_its_first_token_soon", "smollm2-135m") else { return };
    let program = program("reload-model");
    let run = || succeed_alone(Command::new(&program).arg(library()).arg(&model));
    // The second time the file is in the system's cache.
    let printed = [run(), run()][1].clone();
    let milliseconds: u32 = printed.split(' ').next().and_then(|n| n.parse().ok()).expect("a number first");
    eprintln!("{printed}");
    // The figure is 300; this machine may be busy, and tests are compiled with little optimisation.
    assert!(milliseconds < if cfg!(debug_assertions) { 3000 } else { 600 }, "{printed}");
}

#[test]
fn valgrind_finds_nothing() {
    if Command::new("valgrind").arg("--version").output().is_err() {
        return eprintln!("SKIPPED: valgrind_finds_nothing: there is no valgrind");
    }
    let folder = scratch("valgrind-files");
    std::fs::write(folder.join("empty"), "").expect("written");
    std::fs::write(folder.join("noise"), "This is no model.\n".repeat(100)).expect("written");
    let valgrind = || {
        let mut command = Command::new("valgrind");
        command.args([
            "--quiet",
            "--error-exitcode=9",
            "--leak-check=full",
            "--errors-for-leak-kinds=definite",
            "--show-leak-kinds=definite",
        ]);
        // Without it a spinning thread can keep the others from running.
        command.arg("--fair-sched=yes");
        command
    };
    succeed(valgrind().arg(program("errors-valgrind")).arg(folder));
    succeed(valgrind().arg(program("surface-valgrind")).arg("nofork"));
}

#[test]
fn sixteen_threads_may_call_anything() {
    let printed = succeed(Command::new(program("hammer")).arg("3"));
    eprintln!("{printed}");
}
