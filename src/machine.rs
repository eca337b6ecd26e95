//! How this machine reaches packages: proxies, mirrors and certificates, to be told to the steps of
//! a build.
//!
//! Read with the rights and from the environment of whoever builds. Everything here is about what
//! is fetched from where, nothing about what is installed: so it is part of no key, and steps find
//! it where no layer is made of it. Whether they may find it, policy says (`build.settings`).
//!
//! What is deliberately left out: options that name programs, and those that switch checks of
//! signatures off.

mod apt;
mod pip;

use std::ffi::OsString;
use std::io::Read;
use std::path::{Path, PathBuf};

use ric_images::{PROXIES, RunFile};

pub(crate) use apt::Mirrors;

/// Where steps find files: `/dev` of a sandbox is its own, and in no layer.
const FOLDER: &str = "/dev/machine";

/// Variables that name a file of certificates.
const CERTIFICATES: [&str; 6] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
];

/// Where distributions keep the certificates that a machine trusts.
const BUNDLES: [&str; 2] =
    ["etc/ssl/certs/ca-certificates.crt", "etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem"];

/// Bytes of a file of certificates; that of Debian has 220 KiB.
const CERTIFICATES_BYTES_MAX: u64 = 4 << 20;
/// Bytes of a configuration file; people write them.
const CONFIGURATION_BYTES_MAX: u64 = 256 << 10;

/// What steps are told of this machine.
#[derive(Clone, Default)]
pub(crate) struct MachineSettings {
    /// For their environment.
    pub variables: Vec<(String, String)>,
    /// Files that variables name, by their path in the step.
    pub files: Vec<RunFile>,
    /// Where packages of this machine's distribution are fetched from.
    pub mirrors: Mirrors,
    /// What is named and cannot be had, one sentence each.
    pub notes: Vec<String>,
}

/// Addresses may have passwords in them.
impl std::fmt::Debug for MachineSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.variables.iter().map(|(name, _)| name)).finish()
    }
}

impl MachineSettings {
    /// Reads what the environment and the configuration files below `root` say. What cannot be read
    /// counts as not said, with a note if something names it.
    pub(crate) fn read(
        variable: &dyn Fn(&str) -> Option<OsString>,
        root: &Path,
    ) -> MachineSettings {
        let text = |name: &str| variable(name)?.into_string().ok().filter(|text| !text.is_empty());
        let mut settings = MachineSettings::default();
        for name in PROXIES {
            settings.variables.extend(text(name).map(|value| (name.to_owned(), value)));
        }
        for name in CERTIFICATES {
            if let Some(path) = text(name) {
                settings.show_certificates(name, Path::new(&path));
            }
        }
        let pip = pip::read(&text, root);
        settings.variables.extend(pip.variables);
        if let Some(path) = pip.certificates.filter(|_| !settings.has("PIP_CERT")) {
            settings.show_certificates("PIP_CERT", Path::new(&path));
        }
        let apt = apt::read(root);
        settings.mirrors = apt.mirrors;
        let bundle = || BUNDLES.iter().map(|path| root.join(path)).find(|path| path.is_file());
        let https = || bundle().filter(|_| settings.mirrors.has_https());
        let certificates = apt.certificates.map(PathBuf::from).or_else(https);
        let mut configuration = apt.options;
        if let Some(path) = certificates
            && let Some(target) = settings.add_certificates("apt's configuration", &path)
        {
            configuration.push(("Acquire::https::CAInfo".to_owned(), target));
        }
        if !configuration.is_empty() {
            let path = format!("{FOLDER}/apt.conf");
            let content = apt::written(&configuration);
            settings.files.push(RunFile { path: path.clone(), content, mode: 0o444 });
            settings.variables.push(("APT_CONFIG".to_owned(), path));
        }
        settings
    }

    fn has(&self, name: &str) -> bool {
        self.variables.iter().any(|(known, _)| known == name)
    }

    fn show_certificates(&mut self, name: &str, path: &Path) {
        if let Some(target) = self.add_certificates(name, path) {
            self.variables.push((name.to_owned(), target));
        }
    }

    /// Where steps find a copy of `path`, which `named_by` names.
    fn add_certificates(&mut self, named_by: &str, path: &Path) -> Option<String> {
        let Some(content) = read(path, CERTIFICATES_BYTES_MAX) else {
            let path = path.display();
            self.notes.push(format!(
                "{named_by} names {path}, which cannot be read: build steps go without it"
            ));
            return None;
        };
        if let Some(known) = self.files.iter().find(|file| file.content == content) {
            return Some(known.path.clone());
        }
        let target = format!("{FOLDER}/certificates-{}.pem", self.files.len());
        self.files.push(RunFile { path: target.clone(), content, mode: 0o444 });
        Some(target)
    }
}

/// The text of a regular file of at most `bytes_max` bytes. Comments may be in any encoding.
fn read(path: &Path, bytes_max: u64) -> Option<String> {
    let file = std::fs::File::open(path).ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= bytes_max).then(|| String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn settings(variables: &[(&str, &str)], root: &Path) -> MachineSettings {
        let found = |name: &str| variables.iter().find(|(key, _)| *key == name);
        MachineSettings::read(&|name| found(name).map(|(_, value)| value.into()), root)
    }

    fn value<'a>(settings: &'a MachineSettings, name: &str) -> Option<&'a str> {
        let found = settings.variables.iter().find(|(known, _)| known == name);
        found.map(|(_, value)| value.as_str())
    }

    #[test]
    fn a_machine_that_says_nothing_tells_nothing() {
        let root = tempfile::tempdir().unwrap();
        let told = settings(&[("HOME", "/nowhere"), ("PATH", "/bin")], root.path());
        assert!(told.variables.is_empty() && told.files.is_empty() && told.notes.is_empty());
    }

    #[test]
    fn certificates_are_shown_once_whoever_names_them() {
        let root = tempfile::tempdir().unwrap();
        let file = root.path().join("ca.pem");
        fs::write(&file, "-----BEGIN").unwrap();
        let file = file.to_str().unwrap();
        fs::create_dir_all(root.path().join("etc/apt")).unwrap();
        let apt = format!("Acquire::https {{ CAInfo \"{file}\"; Proxy \"http://p:1\"; }};");
        fs::write(root.path().join("etc/apt/apt.conf"), apt).unwrap();
        let named = [("SSL_CERT_FILE", file), ("PIP_CERT", file), ("CURL_CA_BUNDLE", "/none")];
        let told = settings(&named, root.path());
        assert_eq!(value(&told, "SSL_CERT_FILE"), Some("/dev/machine/certificates-0.pem"));
        assert_eq!(value(&told, "PIP_CERT"), Some("/dev/machine/certificates-0.pem"));
        assert_eq!(value(&told, "CURL_CA_BUNDLE"), None);
        assert!(told.notes[0].contains("CURL_CA_BUNDLE names /none"), "{:?}", told.notes);
        let expected = "Acquire::https::Proxy \"http://p:1\";\n\
                        Acquire::https::CAInfo \"/dev/machine/certificates-0.pem\";\n";
        assert_eq!(told.files[1].content, expected);
        assert_eq!(value(&told, "APT_CONFIG"), Some(told.files[1].path.as_str()));
    }

    #[test]
    fn passwords_are_not_in_debug_output() {
        let root = tempfile::tempdir().unwrap();
        let told = settings(&[("HTTPS_PROXY", "http://ada:secret@p:1")], root.path());
        assert_eq!(value(&told, "HTTPS_PROXY"), Some("http://ada:secret@p:1"));
        assert!(!format!("{told:?}").contains("secret"));
    }
}
