//! C programs that link libaieng.so.

use crate::support::{library, link_folder, model, root, scratch, succeed, succeed_alone};
use aieng_runtime::model::synthetic::Shape;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A question whose greedy answer no token is close to missing (all margins above 0.3 nats), and which the model ends.
const PROMPT: &str = "Q: What is 12 + 30?\nA:";
const ANSWER: &str = " 12 + 30 = 42\n\nThe answer is: 42";

/// Compiles tests/c/NAME.c and links it as a user does. What follows a dash is only to tell tests apart, which run at once.
fn program(name: &str) -> PathBuf {
    let source = name.split('-').next().unwrap_or(name);
    compile(name, &root().join("tests/c").join(source).with_extension("c"))
}

fn compile(name: &str, source: &Path) -> PathBuf {
    let program = scratch(name).join(name);
    let mut command = Command::new("gcc");
    command.args(["-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic", "-g", "-pthread", "-I"]);
    command.arg(root().join("include")).arg(source);
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
    let mut times: Vec<u32> = (0..5)
        .map(|_| {
            let printed = succeed_alone(Command::new(&program).arg(library()).arg(&model));
            printed.split(' ').next().and_then(|n| n.parse().ok()).expect("a number first")
        })
        .collect();
    eprintln!("{times:?} ms from dlopen to the first token");
    // The first time the file may not be in the system's cache; the middle one of all is a warm start.
    times.sort_unstable();
    assert!(times[2] < if cfg!(debug_assertions) { 3000 } else { 300 }, "{times:?} ms");
}

/// The program under valgrind, or `None` after saying that `test` is skipped.
fn valgrind(test: &str, program: &Path) -> Option<Command> {
    if Command::new("valgrind").arg("--version").output().is_err() {
        eprintln!("SKIPPED: {test}: there is no valgrind");
        return None;
    }
    let mut command = Command::new("valgrind");
    command.args(["--quiet", "--error-exitcode=9", "--leak-check=full"]);
    command.args(["--errors-for-leak-kinds=definite", "--show-leak-kinds=definite"]);
    // Without it a spinning thread can keep the others from running.
    command.arg("--fair-sched=yes").arg(program);
    Some(command)
}

#[test]
fn valgrind_finds_nothing_without_a_model() {
    let test = "valgrind_finds_nothing_without_a_model";
    let folder = scratch("valgrind-files");
    std::fs::write(folder.join("empty"), "").expect("written");
    std::fs::write(folder.join("noise"), "This is no model.\n".repeat(100)).expect("written");
    let Some(mut errors) = valgrind(test, &program("errors-valgrind")) else { return };
    succeed(errors.arg(folder));
    let Some(mut surface) = valgrind(test, &program("surface-valgrind")) else { return };
    succeed(surface.arg("nofork"));
}

/// A model is loaded, sixteen requests stream from one queue, half of them are cancelled, all is given back. Valgrind has no
/// AVX-512: what runs is AVX2.
#[test]
fn valgrind_finds_nothing_with_a_model() {
    let program = compile("example-valgrind", &root().join("tests/examples/c/example.c"));
    let Some(mut example) = valgrind("valgrind_finds_nothing_with_a_model", &program) else { return };
    // A small one, which needs no fetching: the bigger ones take minutes there.
    eprintln!("{}", succeed(example.arg(small_model("valgrind-model"))));
}

/// The same program, on the kernels of GPUs: it names the device by its number (tests/c/cuda.c).
#[cfg(feature = "emulate")]
#[test]
fn a_c_program_streams_from_cuda() {
    let printed = succeed(Command::new(program("cuda")).arg(small_model("cuda-model")));
    assert!(printed.contains("on emulated"), "{printed}");
}

/// A file of two layers with random weights.
fn small_model(name: &str) -> PathBuf {
    let path = scratch(name).join("small.gguf");
    let mut file = BufWriter::new(std::fs::File::create(&path).expect("a file below target"));
    Shape::find("llama-small").expect("a shape").write(1, &mut file, &mut |_| ()).expect("written");
    path
}

#[test]
fn sixteen_threads_may_call_anything() {
    let printed = succeed(Command::new(program("hammer")).arg("3"));
    eprintln!("{printed}");
}
