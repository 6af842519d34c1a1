//! What kernels may take of a multiprocessor: kernels/budget.toml, compared with what ptxas says.
//!
//! A kernel that spills registers or needs a stack frame fails. So does one that takes more registers or static shared memory
//! than the file has for it, or that the file does not know; one that takes less is only told of.

#[path = "../../kernels/cuda/nvcc.rs"]
mod nvcc;

use crate::report::Outcome;
use crate::{cargo, root, toolchain};
use std::collections::BTreeMap;
use std::fmt::Write;

const FILE: &str = "kernels/budget.toml";

/// What the file begins with.
const HEAD: &str = "\
# What each kernel takes of a multiprocessor, as ptxas of CUDA 13.0 has it; none spills or has a stack frame.
# `cargo xtask budget` fails where one takes more; `cargo xtask budget --write` writes this file: the diff is to be looked at.
";

/// What a kernel takes on an architecture.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Use {
    registers: u32,
    /// Static bytes.
    shared: u32,
    stack: u32,
    spills: u32,
}

/// By kernel and architecture.
type Budget = BTreeMap<(String, String), Use>;

/// Compares.
pub fn compare() -> Outcome {
    let used = match measure() {
        Ok(used) => used,
        Err(outcome) => return outcome,
    };
    let text = match std::fs::read_to_string(root().join(FILE)) {
        Ok(text) => text,
        Err(error) => return Outcome::Failed(format!("{FILE}: {error}")),
    };
    let committed = match parse_file(&text) {
        Ok(committed) => committed,
        Err(why) => return Outcome::Failed(why),
    };
    let (faults, notes) = differences(&committed, &used);
    for note in notes {
        println!("{note}");
    }
    if faults.is_empty() { Outcome::Passed } else { Outcome::Failed(faults.join("; ")) }
}

/// Writes the file, unless a kernel spills.
pub fn write() -> Outcome {
    let used = match measure() {
        Ok(used) => used,
        Err(outcome) => return outcome,
    };
    let spilled: Vec<String> = used.iter().filter_map(|(kernel, used)| spills(kernel, used)).collect();
    if !spilled.is_empty() {
        return Outcome::Failed(spilled.join("; "));
    }
    match std::fs::write(root().join(FILE), format(&used)) {
        Ok(()) => Outcome::Passed,
        Err(error) => Outcome::Failed(format!("{FILE}: {error}")),
    }
}

/// Whether what drives a real device compiles, with the kernels in it; skipped where nvcc cannot be had.
pub fn check_feature() -> Outcome {
    match toolchain::fetch() {
        Outcome::Failed(why) => Outcome::Skipped(why),
        _ => cargo::run(&["clippy", "-p", "aieng-cuda", "--features", "cuda", "--", "--deny", "warnings"], &[]),
    }
}

/// Compiles all kernels and reads what ptxas says; skipped where nvcc cannot be had.
fn measure() -> Result<Budget, Outcome> {
    if let Outcome::Failed(why) = toolchain::fetch() {
        return Err(Outcome::Skipped(why));
    }
    let out = root().join("target/tmp/budget");
    std::fs::create_dir_all(&out).map_err(|error| Outcome::Failed(format!("{}: {error}", out.display())))?;
    let here = root().join("kernels/cuda");
    let compiled = nvcc::compile(&here, nvcc::sources(&here, true), &out, &["-Xptxas=-v"]).map_err(Outcome::Failed)?;
    // A source that is for the emulator alone has no kernels here.
    let all: Budget = compiled.iter().flat_map(|source| parse_ptxas(&source.output)).collect();
    if all.is_empty() { Err(Outcome::Failed("ptxas names no kernel".into())) } else { Ok(all) }
}

/// Reads what `ptxas -v` says: what it compiles, then lines of what that takes.
fn parse_ptxas(output: &str) -> Budget {
    let mut all = Budget::new();
    let mut current = None;
    for line in output.lines() {
        let quoted: Vec<&str> = line.split('\'').collect();
        if line.contains("Compiling entry function")
            && let [_, kernel, _, machine, ..] = quoted[..]
        {
            current = Some((kernel.to_owned(), machine.to_owned()));
            all.insert((kernel.to_owned(), machine.to_owned()), Use::default());
        } else if line.contains("Function properties for") && !current.as_ref().is_some_and(|(k, _)| line.contains(k)) {
            // A function that was not inlined: its frame is that of whoever calls it, which ptxas counts there.
            current = None;
        }
        let Some(used) = current.as_ref().and_then(|kernel| all.get_mut(kernel)) else { continue };
        let before = |unit: &str| number_before(line, unit);
        used.registers += before(" registers");
        used.shared += before(" bytes smem");
        used.stack += before(" bytes stack frame");
        used.spills += before(" bytes spill stores") + before(" bytes spill loads");
    }
    all
}

/// The number right before `unit`; 0 if there is none.
fn number_before(line: &str, unit: &str) -> u32 {
    let number = line.find(unit).and_then(|at| line[..at].rsplit(|c: char| !c.is_ascii_digit()).next());
    number.and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// A table for each kernel, a line for each architecture.
fn format(used: &Budget) -> String {
    let mut text = HEAD.to_owned();
    let mut last = "";
    for ((kernel, machine), used) in used {
        if kernel != last {
            let _ = write!(text, "\n[{kernel}]\n");
        }
        let _ = writeln!(text, "{machine} = {{ registers = {}, shared = {} }}", used.registers, used.shared);
        last = kernel;
    }
    text
}

/// Reads what [`format()`] writes.
fn parse_file(text: &str) -> Result<Budget, String> {
    let mut all = Budget::new();
    let mut kernel = "";
    for (i, line) in text.lines().enumerate() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            kernel = name;
        } else if !line.is_empty() && !line.starts_with('#') {
            let used = parse_line(line).ok_or_else(|| format!("{FILE} line {}: `{line}`", i + 1))?;
            all.insert((kernel.to_owned(), used.0), used.1);
        }
    }
    Ok(all)
}

fn parse_line(line: &str) -> Option<(String, Use)> {
    let (machine, rest) = line.split_once(" = { registers = ")?;
    let (registers, rest) = rest.split_once(", shared = ")?;
    let shared = rest.strip_suffix(" }")?;
    let used = Use { registers: registers.parse().ok()?, shared: shared.parse().ok()?, ..Use::default() };
    Some((machine.to_owned(), used))
}

fn spills((kernel, machine): &(String, String), used: &Use) -> Option<String> {
    let Use { stack, spills, .. } = used;
    (stack + spills > 0).then(|| format!("{kernel} on {machine}: {spills} bytes of spills, {stack} of stack"))
}

/// What is wrong, and what the file may say better.
fn differences(committed: &Budget, used: &Budget) -> (Vec<String>, Vec<String>) {
    let (mut faults, mut notes) = (Vec::new(), Vec::new());
    for (kernel, now) in used {
        faults.extend(spills(kernel, now));
        let (name, machine) = kernel;
        let Some(was) = committed.get(kernel) else {
            faults.push(format!("{name} on {machine} is not in {FILE}: run cargo xtask budget --write"));
            continue;
        };
        for (what, was, is) in [("registers", was.registers, now.registers), ("bytes shared", was.shared, now.shared)] {
            let line = format!("{name} on {machine}: {is} {what}, {was} in {FILE}");
            if is > was {
                faults.push(line);
            } else if is < was {
                notes.push(line);
            }
        }
    }
    for (name, machine) in committed.keys().filter(|kernel| !used.contains_key(kernel)) {
        faults.push(format!("{name} on {machine} is in {FILE}, but there is no such kernel"));
    }
    (faults, notes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "\
ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'norm_128' for 'sm_80'
ptxas info    : Function properties for norm_128
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 42 registers, used 1 barriers, 16 bytes smem, 416 bytes cmem[0]
ptxas info    : Compiling entry function 'norm_512' for 'sm_90a'
ptxas info    : Function properties for norm_512
    24 bytes stack frame, 8 bytes spill stores, 16 bytes spill loads
ptxas info    : Used 255 registers, used 0 barriers, 24 bytes cumulative stack size
";

    fn key(kernel: &str, machine: &str) -> (String, String) {
        (kernel.to_owned(), machine.to_owned())
    }

    #[test]
    fn reads_what_ptxas_says() {
        let used = parse_ptxas(OUTPUT);
        let well = Use { registers: 42, shared: 16, ..Use::default() };
        let ill = Use { registers: 255, shared: 0, stack: 24, spills: 24 };
        assert_eq!(used, Budget::from([(key("norm_128", "sm_80"), well), (key("norm_512", "sm_90a"), ill)]));
    }

    #[test]
    fn the_file_is_read_as_it_was_written() {
        let mut used = parse_ptxas(OUTPUT);
        used.retain(|_, used| used.spills == 0);
        used.insert(key("norm_128", "sm_90a"), Use { registers: 40, shared: 16, ..Use::default() });
        assert_eq!(parse_file(&format(&used)), Ok(used));
        assert!(parse_file("[norm]\nsm_80 = { registers = many, shared = 1 }").unwrap_err().contains("line 2"));
    }

    #[test]
    fn more_is_a_fault_and_less_is_not() {
        let of =
            |registers, shared| Budget::from([(key("norm", "sm_80"), Use { registers, shared, ..Use::default() })]);
        let count = |committed: &Budget, used: &Budget| {
            let (faults, notes) = differences(committed, used);
            (faults.len(), notes.len())
        };
        assert_eq!(count(&of(40, 16), &of(40, 16)), (0, 0));
        assert_eq!(count(&of(40, 16), &of(41, 32)), (2, 0));
        assert_eq!(count(&of(40, 16), &of(39, 0)), (0, 2));
        assert_eq!(count(&Budget::new(), &of(40, 16)), (1, 0));
        assert_eq!(count(&of(40, 16), &Budget::new()), (1, 0));
        let spilling = parse_ptxas(OUTPUT);
        assert_eq!(count(&spilling, &spilling), (1, 0));
    }
}
