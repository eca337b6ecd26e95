//! What apt is told on this machine: apt.conf(5) about fetching, the mirrors of sources.list(5).

use std::path::{Path, PathBuf};

use super::{CONFIGURATION_BYTES_MAX, read as read_text};

/// Files of one directory that are read.
const FILES_MAX: usize = 64;

/// Options that are told, in lower case.
const OPTIONS: [&str; 9] = [
    "acquire::http::proxy",
    "acquire::https::proxy",
    "acquire::ftp::proxy",
    "acquire::http::timeout",
    "acquire::https::timeout",
    "acquire::retries",
    // A mirror that is a snapshot of some day has lists that are past their date.
    "acquire::check-valid-until",
    "acquire::check-date",
    "acquire::max-futuretime",
];
/// Options that a host's name follows.
const OPTIONS_BY_HOST: [&str; 2] = ["acquire::http::proxy::", "acquire::https::proxy::"];
const CERTIFICATES: &str = "acquire::https::cainfo";

/// What images call the archives of a distribution, without the scheme: the packages, and the
/// security updates.
const PUBLIC: [(&str, [&[&str]; 2]); 2] = [
    (
        "debian",
        [
            &["deb.debian.org/debian", "ftp.debian.org/debian", "httpredir.debian.org/debian"],
            &["deb.debian.org/debian-security", "security.debian.org/debian-security"],
        ],
    ),
    (
        "ubuntu",
        [
            &["archive.ubuntu.com/ubuntu", "ports.ubuntu.com/ubuntu-ports"],
            &["security.ubuntu.com/ubuntu"],
        ],
    ),
];

/// What apt is told.
#[derive(Debug, Default)]
pub(super) struct Apt {
    /// Options by their whole names.
    pub(super) options: Vec<(String, String)>,
    /// The file of certificates that they name.
    pub(super) certificates: Option<String>,
    pub(super) mirrors: Mirrors,
}

/// Reads the configuration below `root`, in apt's order.
pub(super) fn read(root: &Path) -> Apt {
    let mut apt = Apt { mirrors: read_mirrors(root), ..Apt::default() };
    let mut files = files(&root.join("etc/apt/apt.conf.d"), &["", "conf"]);
    files.push(root.join("etc/apt/apt.conf"));
    for file in files {
        let text = read_text(&file, CONFIGURATION_BYTES_MAX).unwrap_or_default();
        for (name, value) in options(&text) {
            let known = name.to_ascii_lowercase();
            let of_host = OPTIONS_BY_HOST.iter().any(|option| known.starts_with(option));
            if known == CERTIFICATES {
                apt.certificates = Some(value);
            } else if OPTIONS.contains(&known.as_str()) || of_host {
                apt.options.retain(|(old, _)| !old.eq_ignore_ascii_case(&name));
                apt.options.push((name, value));
            }
        }
    }
    apt
}

/// Options as apt.conf(5) has them.
pub(super) fn written(options: &[(String, String)]) -> String {
    options.iter().map(|(name, value)| format!("{name} \"{value}\";\n")).collect()
}

/// Regular names in a directory with one of these ends, as run-parts(8) orders them.
fn files(directory: &Path, ends: &[&str]) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let end = |path: &Path| path.extension().unwrap_or_default().to_string_lossy().into_owned();
    let mut all: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    all.retain(|path| ends.contains(&end(path).as_str()));
    all.sort();
    all.truncate(FILES_MAX);
    all
}

/// The options of a file that have a value, each by its whole name. Lists are passed over.
fn options(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut scopes: Vec<String> = Vec::new();
    let mut words: Vec<String> = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '#' => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("//") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            '"' => {
                let end = rest[1..].find('"').map_or(rest.len(), |end| end + 2);
                words.push(rest[1..end].trim_end_matches('"').to_owned());
                end
            }
            '{' => {
                scopes.push(words.drain(..).next().unwrap_or_default());
                1
            }
            '}' => {
                words.clear();
                scopes.pop();
                1
            }
            ';' => {
                if let [name, value] = words.as_slice()
                    && !value.contains(['\n', '\\'])
                {
                    let names = scopes.iter().chain([name]).map(String::as_str);
                    found.push((names.collect::<Vec<_>>().join("::"), value.clone()));
                }
                words.clear();
                1
            }
            _ if first.is_whitespace() => first.len_utf8(),
            _ => {
                let is_end = |c: char| c.is_whitespace() || matches!(c, '"' | '{' | '}' | ';');
                let end = rest.find(is_end).unwrap_or(rest.len());
                words.push(rest[..end].to_owned());
                end
            }
        };
        rest = &rest[length..];
    }
    found
}

/// Where this machine fetches packages of its distribution from, if not where everybody does.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Mirrors(Vec<(&'static [&'static str], String)>);

impl Mirrors {
    /// Whether certificates are needed to reach one.
    pub(super) fn has_https(&self) -> bool {
        self.0.iter().any(|(_, mirror)| mirror.starts_with("https:"))
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A file of sources with the mirrors in place of what they mirror; `None` if it names nothing
    /// of that.
    pub(crate) fn applied(&self, text: &str) -> Option<String> {
        let is_end = |c: Option<char>| c.is_none_or(|c| c == '/' || c.is_whitespace());
        let (mut new, mut rest) = (String::new(), text);
        let mut has_changed = false;
        while let Some(at) = rest.find("http") {
            new.push_str(&rest[..at]);
            rest = &rest[at..];
            let named = ["https://", "http://"].iter().find_map(|s| rest.strip_prefix(s));
            let mirror = named.and_then(|named| {
                self.0.iter().find_map(|(public, mirror)| {
                    let mut after = public.iter().filter_map(|public| named.strip_prefix(public));
                    after.find(|after| is_end(after.chars().next())).map(|after| (mirror, after))
                })
            });
            match mirror {
                Some((mirror, after)) => {
                    new.push_str(mirror);
                    rest = after;
                    has_changed = true;
                }
                None => {
                    new.push_str(&rest[..4]);
                    rest = &rest[4..];
                }
            }
        }
        new.push_str(rest);
        has_changed.then_some(new)
    }
}

fn read_mirrors(root: &Path) -> Mirrors {
    let release = read_text(&root.join("etc/os-release"), CONFIGURATION_BYTES_MAX);
    let release = release.unwrap_or_default();
    let field = |name: &str| {
        let mut lines = release.lines().filter_map(|line| line.split_once('='));
        let value = lines.find(|(known, _)| *known == name).map(|(_, value)| value);
        value.unwrap_or_default().trim_matches('"').to_owned()
    };
    let (id, codename) = (field("ID"), field("VERSION_CODENAME"));
    let Some((_, archives)) = PUBLIC.iter().find(|(known, _)| *known == id) else {
        return Mirrors::default();
    };
    let mut all = files(&root.join("etc/apt/sources.list.d"), &["list", "sources"]);
    all.insert(0, root.join("etc/apt/sources.list"));
    let mut sources = Vec::new();
    for file in all {
        let text = read_text(&file, CONFIGURATION_BYTES_MAX).unwrap_or_default();
        match file.extension().is_some_and(|end| end == "sources") {
            true => sources.extend(stanzas(&text)),
            false => sources.extend(text.lines().filter_map(one_line)),
        }
    }
    let suites = [codename.clone(), format!("{codename}-security")];
    let mirrors = suites.iter().zip(archives).filter_map(|(wanted, public)| {
        let (uri, _) = sources.iter().find(|(_, suites)| suites.contains(wanted))?;
        let uri = uri.trim_end_matches('/');
        let (scheme, rest) = uri.split_once("://")?;
        let is_fetched = ["http", "https"].contains(&scheme);
        (is_fetched && !public.contains(&rest)).then(|| (*public, uri.to_owned()))
    });
    Mirrors(mirrors.collect())
}

/// `deb [OPTIONS] URI SUITE COMPONENT…`: the URI and the suite.
fn one_line(line: &str) -> Option<(String, Vec<String>)> {
    let rest = line.trim().strip_prefix("deb")?.strip_prefix([' ', '\t'])?.trim_start();
    let rest = match rest.strip_prefix('[') {
        Some(options) => options.split_once(']')?.1,
        None => rest,
    };
    let mut words = rest.split_whitespace();
    Some((words.next()?.to_owned(), vec![words.next()?.to_owned()]))
}

/// The first URI and the suites of each stanza that is about binary packages.
fn stanzas(text: &str) -> Vec<(String, Vec<String>)> {
    let stanza = |stanza: &str| {
        let field = |wanted: &str| -> Vec<String> {
            let mut is_in = false;
            let mut words = Vec::new();
            for line in stanza.lines().filter(|line| !line.starts_with('#')) {
                let value = match line.starts_with([' ', '\t']) {
                    true => line,
                    false => {
                        let (name, value) = line.split_once(':').unwrap_or_default();
                        is_in = name.eq_ignore_ascii_case(wanted);
                        value
                    }
                };
                if is_in {
                    words.extend(value.split_whitespace().map(str::to_owned));
                }
            }
            words
        };
        let is_off = field("Enabled").iter().any(|word| word == "no");
        let is_binary = field("Types").iter().any(|word| word == "deb");
        let uri = field("URIs").into_iter().next()?;
        (is_binary && !is_off).then(|| (uri, field("Suites")))
    };
    text.split("\n\n").filter_map(stanza).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn machine(files: &[(&str, &str)]) -> Apt {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join("etc").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        read(root.path())
    }

    #[test]
    fn options_about_fetching_are_told_and_no_others() {
        let first = "// a\nAcquire { http { Proxy \"http://p:1\"; Proxy::local \"DIRECT\"; \
                     Proxy-Auto-Detect \"/bin/x\"; }; Retries 3; /* b; */ \
                     Languages { \"en\"; }; };";
        let second = "# c\nacquire::http::Proxy \"http://q:2\";\nDPkg::Post-Invoke { \"rm\"; };\n\
                      APT::Get::AllowUnauthenticated \"true\"; Acquire::https::CAInfo \"/ca\";";
        let apt = machine(&[("apt/apt.conf.d/10a", first), ("apt/apt.conf.d/20b", second)]);
        let expected = "Acquire::http::Proxy::local \"DIRECT\";\nAcquire::Retries \"3\";\n\
                        acquire::http::Proxy \"http://q:2\";\n";
        assert_eq!(written(&apt.options), expected);
        assert_eq!(apt.certificates.as_deref(), Some("/ca"));
        assert!(options("{ { \"").is_empty() && options("}};;a \"b").is_empty());
    }

    const DEBIAN: (&str, &str) = ("os-release", "ID=debian\nVERSION_CODENAME=\"bookworm\"\n");

    #[test]
    fn mirrors_take_the_place_of_what_they_mirror() {
        let sources = "Types: deb\nURIs: https://m/a/debian/\nSuites: bookworm bookworm-updates\n\
                       \nTypes: deb deb-src\nURIs:\n http://m/s\nSuites: bookworm-security\n\
                       \nTypes: deb\nURIs: http://other/\nSuites: bookworm\n";
        let apt = machine(&[DEBIAN, ("apt/sources.list.d/debian.sources", sources)]);
        assert!(apt.mirrors.has_https());
        let image = "URIs: http://deb.debian.org/debian\nURIs: https://deb.debian.org/debian/\n\
                     deb http://deb.debian.org/debian-security x\n\
                     # http://deb.debian.org/debianx\n";
        let expected = "URIs: https://m/a/debian\nURIs: https://m/a/debian/\n\
                        deb http://m/s x\n# http://deb.debian.org/debianx\n";
        assert_eq!(apt.mirrors.applied(image).as_deref(), Some(expected));
        assert_eq!(apt.mirrors.applied("deb http://nodesource.example.org/x y"), None);
    }

    #[test]
    fn a_machine_that_fetches_where_everybody_does_has_no_mirrors() {
        let list = "deb [arch=amd64] http://deb.debian.org/debian bookworm main\n\
                    deb cdrom:[x]/ bookworm-security main\n";
        assert!(machine(&[DEBIAN, ("apt/sources.list", list)]).mirrors.is_empty());
        let other = ("os-release", "ID=fedora\n");
        let list = ("apt/sources.list", "deb http://m/debian bookworm main\n");
        assert!(machine(&[other, list]).mirrors.is_empty());
        assert!(!machine(&[DEBIAN, list]).mirrors.is_empty());
    }
}
