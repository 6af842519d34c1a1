//! Compiles the kernels with nvcc: for the build script, and for `cargo xtask budget`, which includes this file, too.
//!
//! nvcc is the one that `AIENG_NVCC` names, or that of `cargo xtask toolchain`, or that of the `PATH`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

/// Where `cargo xtask toolchain` puts it.
const TOOLCHAIN: &str = ".toolchain/nvcc-13.0.88/nvidia/cu13/bin/nvcc";

/// What a fatbin holds: machine code for A100 and for H100, and PTX for what comes after them.
const FLAGS: [&str; 8] = [
    "-std=c++17",
    "-O3",
    "--fatbin",
    "-lineinfo",
    "--compress-mode=size",
    "-gencode=arch=compute_80,code=sm_80",
    "-gencode=arch=compute_90a,code=sm_90a",
    "-gencode=arch=compute_90,code=compute_90",
];

/// One source, compiled.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Compiled {
    /// The source's name, without the extension.
    pub name: String,
    /// The fatbin.
    pub fatbin: PathBuf,
    /// What nvcc said.
    pub output: String,
}

/// Compiles sources to `out`, on all cores; `more` are further flags.
///
/// Errors: there is no nvcc, or it does not take a source: what it said.
pub fn compile(here: &Path, sources: Vec<PathBuf>, out: &Path, more: &[&str]) -> Result<Vec<Compiled>, String> {
    let nvcc = find(here);
    // Long ones first, so that none is left alone at the end.
    let mut waiting = sources;
    waiting.sort_by_key(|source| size(source));
    let (waiting, done) = (Mutex::new(waiting), Mutex::new(Vec::new()));
    let work = || {
        let next = || waiting.lock().unwrap().pop();
        while let Some(source) = next() {
            let compiled = compile_one(&nvcc, here, &source, out, more);
            done.lock().unwrap().push(compiled);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, |n| n.get()) {
            scope.spawn(work);
        }
    });
    let mut all = done.into_inner().unwrap().into_iter().collect::<Result<Vec<_>, _>>()?;
    all.sort();
    Ok(all)
}

fn compile_one(nvcc: &Path, here: &Path, source: &Path, out: &Path, more: &[&str]) -> Result<Compiled, String> {
    let name = source.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let fatbin = out.join(format!("{name}.fatbin"));
    let mut command = Command::new(nvcc);
    command.args(FLAGS).args(more).arg("-I").arg(here).arg("-o").arg(&fatbin).arg(source);
    let output = command.output().map_err(|error| {
        format!("nvcc: {}: {error}. Run `cargo xtask toolchain`, or set AIENG_NVCC", nvcc.display())
    })?;
    let said = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    match output.status.success() {
        true => Ok(Compiled { name, fatbin, output: said }),
        false => Err(format!("{}: {said}", source.display())),
    }
}

/// Bytes of a source with the headers beside it, as a guess at how long it takes.
fn size(source: &Path) -> u64 {
    let beside = source.parent().map(files).unwrap_or_default();
    let device = beside.iter().filter(|file| file.extension().is_some_and(|e| e == "cu" || e == "cuh"));
    device.filter_map(|file| file.metadata().ok()).map(|metadata| metadata.len()).sum()
}

fn find(here: &Path) -> PathBuf {
    let toolchain = here.ancestors().nth(2).unwrap_or(here).join(TOOLCHAIN);
    match std::env::var_os("AIENG_NVCC") {
        Some(path) => path.into(),
        None if toolchain.is_file() => toolchain,
        None => "nvcc".into(),
    }
}

/// All `kernels/*/*.cu`; those of this folder's own subfolders, which are proofs, only with these.
pub fn sources(here: &Path, proofs: bool) -> Vec<PathBuf> {
    let mut sources = folders(here).iter().flat_map(|folder| files(folder)).collect::<Vec<_>>();
    sources.retain(|file| file.extension().is_some_and(|e| e == "cu") && (proofs || !file.starts_with(here)));
    sources.sort();
    sources
}

/// Where device code lies.
pub fn folders(here: &Path) -> Vec<PathBuf> {
    let all = here.parent().into_iter().chain([here]).flat_map(files);
    all.filter(|path| path.is_dir()).collect()
}

/// What a folder holds; nothing if it is none.
pub fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).map(|entries| entries.flatten().map(|e| e.path()).collect());
    entries.unwrap_or_default()
}
