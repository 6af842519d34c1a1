//! Models from a hub that speaks Hugging Face's protocol, by curl: it brings the system's certificates and proxies, which
//! an HTTP and a TLS stack of our own would have to learn, and nothing that has to be compiled.

use super::{Ended, Part, Progress, append_output, finish, start};
use crate::models::{ModelError, Result, Store};
use std::path::Path;

/// "HTTP server doesn't seem to support byte ranges. Cannot resume."
const CURL_RANGE_ERROR: i32 = 33;
const MAX_RENAMES: usize = 5;

/// What the hub says about a file, before it sends it.
struct Remote {
    url: String,
    len: u64,
    sha256: String,
}

/// Fetches a file of a repository's main branch.
pub(super) fn fetch(store: &Store, repo: &str, file: &str, target: &Path, progress: Progress) -> Result<()> {
    let name = format!("hf:{repo}/{file}");
    progress("ask the hub", 0, 0);
    let remote = ask(store, &name, &format!("/{repo}/resolve/main/{file}"))?;
    let mut part = Part::open(target, remote.len, &remote.sha256, progress)?;
    if part.len < part.want {
        download(store, &name, &remote, &mut part, progress)?;
    }
    part.publish(target)
}

fn error(name: &str, what: impl std::fmt::Display) -> ModelError {
    ModelError(format!("{name}: {what}"))
}

/// curl's options that every call needs, and its configuration for stdin, where no process list shows the token.
fn curl(store: &Store, name: &str, url: &str) -> Result<(std::process::Command, String)> {
    // No redirect may lead from https to http.
    let protocols = if url.starts_with("https://") { "=https" } else { "=http,https" };
    let mut command = store.command(&store.curl);
    command.args(["--disable", "--silent", "--show-error", "--globoff", "--proto", protocols]);
    command.args(["--connect-timeout", "30", "--speed-limit", "1", "--speed-time", "60"]);
    command.args(["--user-agent", concat!("aieng/", env!("CARGO_PKG_VERSION")), "--config", "-", "--url", url]);
    let Some(token) = &store.token else {
        return Ok((command, String::new()));
    };
    let token = token.trim();
    if !token.bytes().all(|b| b.is_ascii_graphic() && b != b'"' && b != b'\\') {
        return Err(error(name, "HF_TOKEN holds a character that no token has"));
    }
    // curl itself drops this header where a redirect leads to another host.
    Ok((command, format!("header = \"Authorization: Bearer {token}\"\n")))
}

/// Asks for a file's size and checksum. The answer is a redirect to the storage: its headers tell both.
fn ask(store: &Store, name: &str, path: &str) -> Result<Remote> {
    let endpoint = store.endpoint.trim_end_matches('/');
    if !endpoint.starts_with("https://") && !endpoint.starts_with("http://") {
        return Err(error(name, format!("HF_ENDPOINT is \"{endpoint}\", expected a URL with http:// or https://")));
    }
    let mut url = format!("{endpoint}{path}");
    for _ in 0..MAX_RENAMES {
        let headers = head(store, name, &url)?;
        match (headers.status, headers.get("location")) {
            // Within the hub: the repository has another name by now.
            (300..400, Some(to)) if to.starts_with('/') && !to.starts_with("//") => url = format!("{endpoint}{to}"),
            (200..400, _) => return describe(name, url, &headers),
            (status, _) => {
                let said = headers.get("x-error-message").map_or(String::new(), |m| format!(" ({})", m.escape_debug()));
                let hint = match (status, &store.token) {
                    (401 | 403, None) => "; if it is private or gated, set HF_TOKEN",
                    (401 | 403, Some(_)) => "; this HF_TOKEN does not give access",
                    (404, _) => "; check the names of repository and file",
                    _ => "",
                };
                return Err(error(name, format!("the hub answers {status}{said} for {url}{hint}")));
            }
        }
    }
    Err(error(name, format!("the hub redirects more than {MAX_RENAMES} times, last to {url}")))
}

fn describe(name: &str, url: String, headers: &Headers) -> Result<Remote> {
    let tag = headers.get("x-linked-etag").or(headers.get("etag")).unwrap_or_default();
    let sha256 = tag.trim_start_matches("W/").trim_matches('"').to_ascii_lowercase();
    if sha256.len() != 64 || !sha256.bytes().all(|b| b.is_ascii_hexdigit()) {
        let what =
            format!("the hub announces no sha256 (X-Linked-Etag is \"{tag}\"), so the file could not be verified");
        return Err(error(name, what));
    }
    // A redirect's own length is not the file's.
    let plain = headers.get("content-length").filter(|_| headers.status == 200);
    let len = headers.get("x-linked-size").or(plain).and_then(|n| n.parse().ok());
    let len = len.ok_or_else(|| error(name, "the hub announces no size (X-Linked-Size)"))?;
    Ok(Remote { url, len, sha256 })
}

/// Status and headers of a response.
struct Headers {
    status: u16,
    lines: Vec<(String, String)>,
}

impl Headers {
    fn get(&self, name: &str) -> Option<&str> {
        self.lines.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

fn head(store: &Store, name: &str, url: &str) -> Result<Headers> {
    let (mut command, config) = curl(store, name, url)?;
    command.args(["--head", "--suppress-connect-headers"]);
    let child = start(&mut command, &config)?;
    let (ended, text) = finish(&command, child)?;
    if !ended.status.success() {
        return Err(error(name, format!("cannot ask the hub: {}", ended.said)));
    }
    let mut lines = text.lines().map(str::trim_end);
    let status = lines.next().and_then(|l| l.split(' ').nth(1)).and_then(|s| s.parse().ok());
    let status = status.ok_or_else(|| error(name, format!("{url} does not answer as an HTTP server")))?;
    let split = |l: &str| l.split_once(':').map(|(n, v)| (n.trim().to_owned(), v.trim().to_owned()));
    Ok(Headers { status, lines: lines.filter_map(split).collect() })
}

fn download(store: &Store, name: &str, remote: &Remote, part: &mut Part, progress: Progress) -> Result<()> {
    let total = remote.len;
    loop {
        let (mut command, config) = curl(store, name, &remote.url)?;
        command.args(["--location", "--max-redirs", "10", "--fail", "--output", "-"]);
        let from = part.len;
        if from > 0 {
            command.args(["--continue-at", &from.to_string()]);
        }
        let Ended { status, said } =
            append_output(&mut command, &config, part, &mut |n| progress("download", n, total))?;
        if part.len == total {
            return Ok(());
        }
        if from > 0 && status.code() == Some(CURL_RANGE_ERROR) {
            part.restart()?;
            continue;
        }
        let said = if said.is_empty() { format!("curl, {status}") } else { said };
        let kept = part.len;
        return Err(error(
            name,
            format!("interrupted: {said}; {kept} of {total} bytes are kept, pull again to continue"),
        ));
    }
}
