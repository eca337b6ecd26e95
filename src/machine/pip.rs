//! What pip and uv are told on this machine: their variables, and pip's configuration files.
//!
//! Everything becomes a variable, which both read before any file of an image (pip documentation,
//! "Configuration").

use std::path::{Path, PathBuf};

use super::{CONFIGURATION_BYTES_MAX, read as read_text};

/// Options about what is fetched from where, as pip's files and, in capitals, its variables call
/// them.
const OPTIONS: [&str; 8] = [
    "index-url",
    "extra-index-url",
    "find-links",
    "trusted-host",
    "proxy",
    "timeout",
    "default-timeout",
    "retries",
];

/// uv's own.
const UV: [&str; 6] = [
    "UV_DEFAULT_INDEX",
    "UV_INDEX",
    "UV_INDEX_URL",
    "UV_EXTRA_INDEX_URL",
    "UV_FIND_LINKS",
    "UV_HTTP_TIMEOUT",
];

/// What pip and uv are told.
#[derive(Debug, Default)]
pub(super) struct Pip {
    pub(super) variables: Vec<(String, String)>,
    /// The file of certificates that a configuration file names.
    pub(super) certificates: Option<String>,
}

/// Reads variables and the files below `root`, of which the later ones count.
pub(super) fn read(text: &dyn Fn(&str) -> Option<String>, root: &Path) -> Pip {
    let mut found: Vec<(String, String)> = Vec::new();
    for file in files(text, root) {
        let content = read_text(&file, CONFIGURATION_BYTES_MAX).unwrap_or_default();
        for (name, value) in options(&content) {
            found.retain(|(known, _)| *known != name);
            found.push((name, value));
        }
    }
    let certificates = found.iter().find(|(name, _)| name == "cert").map(|(_, path)| path.clone());
    let mut pip = Pip { variables: Vec::new(), certificates };
    for option in OPTIONS {
        let variable = format!("PIP_{}", option.to_ascii_uppercase().replace('-', "_"));
        let of_files = found.iter().find(|(name, _)| name == option).map(|(_, value)| value);
        let value = text(&variable).or_else(|| of_files.cloned());
        if let Some(value) = value.and_then(|value| reachable(option, &value)) {
            pip.variables.push((variable, value));
        }
    }
    let is_told = |name: &&&str| text(name).is_some();
    if UV.iter().any(|name| is_told(&name)) {
        let told = UV.iter().filter(is_told).filter_map(|name| Some((*name, text(name)?)));
        pip.variables.extend(told.map(|(name, value)| (name.to_owned(), value)));
    } else {
        for (of_pip, of_uv) in [("PIP_INDEX_URL", UV[0]), ("PIP_EXTRA_INDEX_URL", UV[1])] {
            let value = pip.variables.iter().find(|(name, _)| name == of_pip);
            let value = value.map(|(_, value)| (of_uv.to_owned(), value.clone()));
            pip.variables.extend(value);
        }
    }
    pip
}

/// pip's files, in its order (pip documentation, "Configuration", "Location").
fn files(text: &dyn Fn(&str) -> Option<String>, root: &Path) -> Vec<PathBuf> {
    let named = text("PIP_CONFIG_FILE");
    if named.as_deref() == Some("/dev/null") {
        return Vec::new();
    }
    let home = text("HOME").map(PathBuf::from);
    let config = text("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| home.as_ref().map(|home| home.join(".config")));
    let mut all = vec![root.join("etc/xdg/pip/pip.conf"), root.join("etc/pip.conf")];
    all.extend(home.map(|home| home.join(".pip/pip.conf")));
    all.extend(config.map(|config| config.join("pip/pip.conf")));
    all.extend(named.map(PathBuf::from));
    all
}

/// What of a value a sandbox can reach: a directory of the machine is none.
fn reachable(option: &str, value: &str) -> Option<String> {
    if !["index-url", "extra-index-url", "find-links"].contains(&option) {
        return Some(value.to_owned());
    }
    let is_address = |word: &&str| word.contains("://") && !word.starts_with("file:");
    let words: Vec<&str> = value.split_whitespace().filter(is_address).collect();
    (!words.is_empty()).then(|| words.join(" "))
}

/// The options of `[global]`, then those of `[install]`, whose names count for pip whether written
/// with `-` or `_`. An indented line goes on with the one before.
fn options(text: &str) -> Vec<(String, String)> {
    let mut found: [Vec<(String, String)>; 2] = Default::default();
    let mut section: Option<usize> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            section = ["global", "install"].iter().position(|known| *known == name);
            continue;
        }
        let Some(options) = section.and_then(|number| found.get_mut(number)) else { continue };
        if line.starts_with([' ', '\t']) {
            if let Some((_, value)) = options.last_mut() {
                value.push(' ');
                value.push_str(trimmed);
            }
        } else if let Some((name, value)) = trimmed.split_once(['=', ':']) {
            let name = name.trim().to_ascii_lowercase().replace('_', "-");
            options.push((name.trim_start_matches('-').to_owned(), value.trim().to_owned()));
        }
    }
    let [mut all, install] = found;
    all.extend(install);
    all.into_iter().map(|(name, value)| (name, value.trim().to_owned())).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn pip(variables: &[(&str, &str)], files: &[(&str, &str)]) -> Vec<(String, String)> {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        let home = root.path().join("home").to_str().unwrap().to_owned();
        let found = |name: &str| match name {
            "HOME" => Some(home.clone()),
            _ => variables.iter().find(|(known, _)| *known == name).map(|(_, v)| v.to_string()),
        };
        read(&found, root.path()).variables
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect()
    }

    #[test]
    fn later_files_and_then_variables_count() {
        let files = [
            ("etc/pip.conf", "[global]\nindex-url = https://a/simple\ntimeout: 9\n"),
            ("home/.config/pip/pip.conf", "[install]\nindex_url = https://b/simple\n"),
        ];
        let indexes =
            [("PIP_INDEX_URL", "https://b/simple"), ("PIP_TIMEOUT", "9"), ("UV_DEFAULT_INDEX", "")];
        let mut expected = pairs(&indexes);
        expected[2].1 = "https://b/simple".to_owned();
        assert_eq!(pip(&[], &files), expected);
        let told = pip(&[("PIP_INDEX_URL", "https://c"), ("UV_INDEX_URL", "https://d")], &files);
        let expected =
            [("PIP_INDEX_URL", "https://c"), ("PIP_TIMEOUT", "9"), ("UV_INDEX_URL", "https://d")];
        assert_eq!(told, pairs(&expected));
        assert!(pip(&[("PIP_CONFIG_FILE", "/dev/null")], &files).is_empty());
    }

    #[test]
    fn lists_go_over_lines_and_directories_of_the_machine_are_left_out() {
        let file = "# a\n[global]\nfind-links =\n    /opt/wheels\n    https://w/links\n; b\n\
                    [list]\nindex-url = https://no\n";
        let told = pip(&[], &[("etc/pip.conf", file)]);
        assert_eq!(told, pairs(&[("PIP_FIND_LINKS", "https://w/links")]));
        assert!(pip(&[("PIP_INDEX_URL", "file:///srv/simple")], &[]).is_empty());
    }
}
