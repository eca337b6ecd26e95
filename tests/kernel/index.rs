//! A package index of the tests' own on loopback: wheels and source packages made here, served as
//! an index serves them (PyPA, "Simple repository API"), rightly or not.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};

use flate2::write::GzEncoder;
use flate2::{Compression, Crc};
use libtest_mimic::Failed;

use crate::images::hex;

/// Files by their path, and how often each was asked for.
type Files = Arc<Mutex<BTreeMap<String, (Vec<u8>, usize)>>>;

/// A running server; its thread ends with the tests.
#[derive(Debug)]
pub(crate) struct Index {
    host: String,
    files: Files,
}

impl Index {
    /// Starts one that has nothing.
    pub(crate) fn start() -> Result<Index, Failed> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let host = listener.local_addr()?.to_string();
        let files = Files::default();
        let served = Arc::clone(&files);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let served = Arc::clone(&served);
                std::thread::spawn(move || {
                    // A client that went away is told nothing more.
                    let _ = serve(&stream, &served);
                });
            }
        });
        Ok(Index { host, files })
    }

    /// What pip calls it.
    pub(crate) fn url(&self) -> String {
        format!("http://{}/simple", self.host)
    }

    /// Serves a file.
    pub(crate) fn put(&self, path: &str, content: impl Into<Vec<u8>>) {
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.insert(path.to_owned(), (content.into(), 0));
    }

    /// Lists a file of a project with the digest that it has.
    pub(crate) fn publish(&self, project: &str, file: &str, content: Vec<u8>) {
        let digest = hex(&content);
        self.publish_as(project, file, content, &digest);
    }

    /// The same, with any digest.
    pub(crate) fn publish_as(&self, project: &str, file: &str, content: Vec<u8>, digest: &str) {
        let page = format!("/simple/{project}/");
        let link = format!("<a href=\"{page}{file}#sha256={digest}\">{file}</a>\n");
        let before = self.text(&page).unwrap_or_default();
        self.put(&page, before + &link);
        self.put(&format!("{page}{file}"), content);
    }

    fn text(&self, path: &str) -> Option<String> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.get(path).map(|(content, _)| String::from_utf8_lossy(content).into_owned())
    }

    /// How often anything was asked for.
    pub(crate) fn asked(&self) -> usize {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.values().map(|(_, asked)| asked).sum()
    }
}

/// Answers one request (RFC 9112, without what pip and apt do not need).
fn serve(mut stream: &TcpStream, files: &Files) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream).lines();
    let Some(first) = lines.next().transpose()? else { return Ok(()) };
    for line in lines {
        if line?.is_empty() {
            break;
        }
    }
    let path = first.split(' ').nth(1).unwrap_or_default();
    let mut files = files.lock().unwrap_or_else(PoisonError::into_inner);
    let found = files.get_mut(path).map(|(content, asked)| {
        *asked += 1;
        content.clone()
    });
    drop(files);
    let (status, content) = match found {
        Some(content) => ("200 OK", content),
        None => ("404 Not Found", Vec::new()),
    };
    let kind = if path.ends_with('/') { "text/html" } else { "application/octet-stream" };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        content.len()
    )?;
    stream.write_all(&content)
}

/// A wheel of one module with this text.
pub(crate) fn wheel(name: &str, version: &str, text: &str, requires: &[&str]) -> (String, Vec<u8>) {
    let about = format!("{name}-{version}.dist-info");
    let requires: String =
        requires.iter().map(|other| format!("Requires-Dist: {other}\n")).collect();
    let mut members = vec![
        (format!("{name}.py"), text.to_owned()),
        (format!("{about}/METADATA"), format!("{}{requires}", metadata(name, version))),
        (
            format!("{about}/WHEEL"),
            "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
                .to_owned(),
        ),
    ];
    let record: String = members.iter().map(|(path, _)| format!("{path},,\n")).collect();
    members.push((format!("{about}/RECORD"), format!("{record}{about}/RECORD,,\n")));
    (format!("{name}-{version}-py3-none-any.whl"), zip(&members))
}

fn metadata(name: &str, version: &str) -> String {
    format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
}

/// A source package whose build is this Python: a backend of its own, so that nothing else has to
/// be fetched (PEP 517).
pub(crate) fn source_package(
    name: &str,
    version: &str,
    backend: &str,
) -> Result<(String, Vec<u8>), Failed> {
    let folder = format!("{name}-{version}");
    let project = "[build-system]\nrequires = []\nbuild-backend = \"backend\"\n\
                   backend-path = [\".\"]\n";
    let members = [
        ("pyproject.toml", project.to_owned()),
        ("backend.py", backend.to_owned()),
        ("PKG-INFO", metadata(name, version)),
    ];
    let mut builder = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::fast()));
    for (path, text) in members {
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        header.set_size(u64::try_from(text.len())?);
        builder.append_data(&mut header, format!("{folder}/{path}"), text.as_bytes())?;
    }
    Ok((format!("{folder}.tar.gz"), builder.into_inner()?.finish()?))
}

/// A zip file whose members are stored as they are (APPNOTE.TXT 6.3, 4.3), dated 1980-01-01.
fn zip(members: &[(String, String)]) -> Vec<u8> {
    let (mut bytes, mut directory) = (Vec::new(), Vec::new());
    for (path, text) in members {
        let mut crc = Crc::new();
        crc.update(text.as_bytes());
        let offset = length(&bytes);
        let size = length(text.as_bytes()).to_le_bytes();
        // Version 2.0, no flags, stored, midnight of 1980-01-01.
        let mut about = vec![20, 0, 0, 0, 0, 0, 0, 0, 0x21, 0];
        about.extend(crc.sum().to_le_bytes());
        about.extend([size, size].concat());
        about.extend(u16::try_from(path.len()).unwrap_or(u16::MAX).to_le_bytes());
        about.extend([0, 0]);
        bytes.extend(b"PK\x03\x04");
        bytes.extend(&about);
        bytes.extend(path.as_bytes());
        bytes.extend(text.as_bytes());
        directory.extend(b"PK\x01\x02\x14\x00");
        directory.extend(&about);
        // No comment, first disk, no attributes inside, a regular file of mode 0644 outside.
        directory.extend([0, 0, 0, 0, 0, 0, 0, 0, 0xa4, 0x81]);
        directory.extend(offset.to_le_bytes());
        directory.extend(path.as_bytes());
    }
    let count = u16::try_from(members.len()).unwrap_or(u16::MAX).to_le_bytes();
    let (offset, size) = (length(&bytes).to_le_bytes(), length(&directory).to_le_bytes());
    bytes.extend(directory);
    bytes.extend(b"PK\x05\x06\x00\x00\x00\x00");
    bytes.extend([count, count].concat());
    bytes.extend([size, offset].concat());
    bytes.extend([0, 0]);
    bytes
}

fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}
