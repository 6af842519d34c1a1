//! Link arguments of libaieng.so and the version string.

use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    if std::env::var("CARGO_CFG_TARGET_OS").as_deref() == Ok("linux") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libaieng.so.1");
        // rustc's version script exports every #[no_mangle] symbol, those of dependencies included.
        println!("cargo::rustc-cdylib-link-arg=-Wl,--exclude-libs,ALL");
        // dlclose(3) while threads of the library still run, or have values with destructors, would pull the code out from
        // under them.
        println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    }
    let revision = revision().unwrap_or_default();
    let suffix = if revision.is_empty() { String::new() } else { format!("+{revision}") };
    println!("cargo::rustc-env=AIENG_VERSION={}{suffix}", env!("CARGO_PKG_VERSION"));
    println!("cargo::rustc-env=AIENG_REVISION={revision}");
    println!("cargo::rustc-env=AIENG_COMPILER={}", compiler().unwrap_or_default());
    for (name, of_cargo) in [("AIENG_TARGET", "TARGET"), ("AIENG_PROFILE", "PROFILE")] {
        println!("cargo::rustc-env={name}={}", std::env::var(of_cargo).unwrap_or_default());
    }
}

/// The commit that is checked out. Sources from an archive have none, also when they lie inside some other repository.
fn revision() -> Option<String> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).canonicalize().ok()?;
    if Path::new(&git(&["rev-parse", "--show-toplevel"])?).canonicalize().ok()? != here {
        return None;
    }
    // The log of HEAD changes with each commit and each checkout; the name of HEAD's branch alone does not.
    let log = git(&["rev-parse", "--git-path", "logs/HEAD"])?;
    if Path::new(&log).exists() {
        println!("cargo::rerun-if-changed={log}");
    }
    git(&["rev-parse", "--short=12", "HEAD"])
}

/// What rustc calls itself.
fn compiler() -> Option<String> {
    let output = Command::new(std::env::var_os("RUSTC")?).arg("--version").output().ok()?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

/// One line that git answers; `None` where there is no git, no repository or no commit.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).current_dir(env!("CARGO_MANIFEST_DIR")).output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}
