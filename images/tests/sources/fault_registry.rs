//! A registry on 127.0.0.1 that answers as it is told, and remembers what it was asked.
//!
//! Plain HTTP/1.1, one request a connection, one thread a connection. Each path has a list of
//! answers; the last one stays.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use super::image_fixture::{Fixture, MANIFEST};

/// What a path is answered with.
#[derive(Clone)]
pub(super) enum Answer {
    /// 200 with this media type and body.
    Content(String, Vec<u8>),
    /// 200 that promises the whole body and ends after so many bytes of it.
    CutAfter(usize, Vec<u8>),
    /// 200 without a length, ended by closing.
    Unframed(Vec<u8>),
    /// What is asked for of this body, from `Range` on, and at most so many bytes of it.
    Part(usize, Vec<u8>),
    /// 206 with this body, as if its beginning had been asked for.
    WrongPart(Vec<u8>),
    /// The connection is reset.
    Reset,
    /// Another status, a header and a body.
    Status(u16, String, String),
    /// The request is read and never answered, until the client goes.
    Silence,
    /// The head and the first bytes of the body, then nothing, until the client goes.
    SilenceAfter(usize, Vec<u8>),
    /// 200 and a body without end, until the client goes.
    Endless,
    /// The same with 401.
    EndlessRefusal,
}

/// A request that came.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Asked {
    pub(super) path: String,
    pub(super) authorization: Option<String>,
    pub(super) range: Option<String>,
    /// What was posted.
    pub(super) form: String,
}

#[derive(Default)]
struct State {
    answers: HashMap<String, Vec<Answer>>,
    asked: Vec<Asked>,
    /// What `/v2/` paths want to see as `Authorization`, if anything.
    wanted: Option<Wanted>,
    /// Of a hundred requests, so many fail.
    stumbles: u64,
    /// Of the next number that decides about it.
    seed: u64,
    /// Connections that are silent.
    silent: Vec<TcpStream>,
    stopping: bool,
}

/// Headers that are accepted one after the other, each for so many requests.
struct Wanted {
    challenge: String,
    headers: VecDeque<(String, usize)>,
}

/// A running registry. Stops when dropped.
pub(super) struct FaultRegistry {
    state: Arc<Mutex<State>>,
    address: std::net::SocketAddr,
    thread: Option<JoinHandle<()>>,
}

impl FaultRegistry {
    pub(super) fn start() -> FaultRegistry {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.lock().unwrap().stopping {
                    return;
                }
                let shared = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream.unwrap(), &shared));
            }
        });
        FaultRegistry { state, address, thread: Some(thread) }
    }

    /// `HOST:PORT`, as references and policies write it.
    pub(super) fn host(&self) -> String {
        self.address.to_string()
    }

    /// Answers `path` with `answers` one after the other, then for ever with the last.
    pub(super) fn answer(&self, path: &str, answers: Vec<Answer>) {
        self.state.lock().unwrap().answers.insert(path.to_owned(), answers);
    }

    /// Offers an image as an honest registry does.
    pub(super) fn offer(&self, repository: &str, tag: &str, fixture: &Fixture) {
        let manifest = Answer::Content(MANIFEST.to_owned(), fixture.manifest.clone());
        for name in [tag.to_owned(), fixture.digest().to_string()] {
            self.answer(&format!("/v2/{repository}/manifests/{name}"), vec![manifest.clone()]);
        }
        for blob in fixture.blobs() {
            let path = format!("/v2/{repository}/blobs/{}", ric_images::Digest::of(blob));
            self.answer(&path, vec![content(blob)]);
        }
    }

    /// From now on, `/v2/` wants this token; `/token` gives what it is told to.
    pub(super) fn want_token(&self, token: &str) {
        self.want_tokens(&[(token, usize::MAX)]);
    }

    /// From now on, `/v2/` wants the first of `tokens`, after so many requests the second.
    pub(super) fn want_tokens(&self, tokens: &[(&str, usize)]) {
        self.want_from(&format!("http://{}/token", self.host()), tokens);
    }

    /// As [`FaultRegistry::want_tokens`], of the token service `realm`.
    pub(super) fn want_from(&self, realm: &str, tokens: &[(&str, usize)]) {
        let challenge = format!("Bearer realm=\"{realm}\",service=\"fixture\"");
        let headers = tokens.iter().map(|(token, uses)| (format!("Bearer {token}"), *uses));
        let headers = headers.collect();
        self.state.lock().unwrap().wanted = Some(Wanted { challenge, headers });
    }

    /// From now on, `/v2/` wants this header, and says that it wants a password.
    pub(super) fn want_password(&self, header: &str) {
        let challenge = "Basic realm=\"fixture\"".to_owned();
        let headers = VecDeque::from([(header.to_owned(), usize::MAX)]);
        self.state.lock().unwrap().wanted = Some(Wanted { challenge, headers });
    }

    /// From now on, so many of a hundred requests fail, one way or another.
    pub(super) fn stumble(&self, of_a_hundred: u64) {
        self.state.lock().unwrap().stumbles = of_a_hundred;
    }

    /// Ends what is silent.
    pub(super) fn hang_up(&self) {
        for stream in self.state.lock().unwrap().silent.drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    /// All requests so far.
    pub(super) fn asked(&self) -> Vec<Asked> {
        self.state.lock().unwrap().asked.clone()
    }

    /// How often `path` was asked for.
    pub(super) fn asked_for(&self, path: &str) -> usize {
        self.asked().iter().filter(|asked| asked.path == path).count()
    }
}

impl Drop for FaultRegistry {
    fn drop(&mut self) {
        self.state.lock().unwrap().stopping = true;
        // Wakes the listener.
        let _ = TcpStream::connect(self.address);
        self.thread.take().unwrap().join().unwrap();
    }
}

/// 200 with a blob.
pub(super) fn content(bytes: &[u8]) -> Answer {
    Answer::Content("application/octet-stream".to_owned(), bytes.to_vec())
}

/// A redirect.
pub(super) fn redirect(location: &str) -> Answer {
    Answer::Status(307, format!("Location: {location}"), String::new())
}

fn serve(stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        match reader.read_line(&mut line) {
            Ok(0) => return,
            Ok(_) => {}
            // No text: somebody speaks TLS.
            Err(_) => return drop((&stream).write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")),
        }
        match line.trim_end() {
            "" => break,
            line => lines.push(line.to_owned()),
        }
    }
    let path = lines[0].split(' ').nth(1).unwrap().to_owned();
    let header = |wanted: &str| {
        let mut headers = lines.iter().filter_map(|line| line.split_once(": "));
        let found = headers.find(|(name, _)| name.eq_ignore_ascii_case(wanted));
        found.map(|(_, value)| value.to_owned())
    };
    let mut form = vec![0; header("content-length").map_or(0, |length| length.parse().unwrap())];
    reader.read_exact(&mut form).unwrap();
    let form = String::from_utf8(form).unwrap();
    let (authorization, range) = (header("authorization"), header("range"));
    let asked = Asked { path, authorization, range, form };
    let answer = choose(&mut state.lock().unwrap(), asked.clone());
    if matches!(answer, Answer::Reset) {
        // Closing then sends RST (socket(7), SO_LINGER).
        return rustix::net::sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    }
    // The client may well hang up first.
    let _ = send(&stream, &answer, asked.range.as_deref());
    if matches!(answer, Answer::Silence | Answer::SilenceAfter(..)) {
        state.lock().unwrap().silent.push(stream.try_clone().unwrap());
        let _ = reader.read_line(&mut String::new());
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn choose(state: &mut State, asked: Asked) -> Answer {
    state.asked.push(asked.clone());
    // A generator of Knuth's (MMIX): the same failures in every run.
    state.seed = state.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    let number = state.seed >> 33;
    if number % 100 < state.stumbles {
        return match number / 100 % 5 {
            0 => Answer::Reset,
            1 => Answer::Status(503, "X-Busy: 1".to_owned(), String::new()),
            2 => Answer::Status(429, "Retry-After: 0".to_owned(), String::new()),
            3 => Answer::Status(502, "X-Busy: 1".to_owned(), "<html>".to_owned()),
            _ => Answer::CutAfter(1, b"what should come".to_vec()),
        };
    }
    if asked.path.starts_with("/v2/")
        && let Some(wanted) = &mut state.wanted
        && !wanted.accepts(asked.authorization.as_deref())
    {
        let header = format!("WWW-Authenticate: {}", wanted.challenge);
        let body = r#"{"errors": [{"code": "UNAUTHORIZED", "message": "who are you"}]}"#;
        return Answer::Status(401, header, body.to_owned());
    }
    let bare = asked.path.split('?').next().unwrap();
    match state.answers.get_mut(bare) {
        Some(answers) if answers.len() > 1 => answers.remove(0),
        Some(answers) => answers[0].clone(),
        None => Answer::Status(404, "X-None: 1".to_owned(), String::new()),
    }
}

impl Wanted {
    fn accepts(&mut self, shown: Option<&str>) -> bool {
        let Some((header, uses)) = self.headers.front_mut() else { return false };
        if shown != Some(header) {
            return false;
        }
        *uses -= 1;
        if *uses == 0 {
            self.headers.pop_front();
        }
        true
    }
}

fn send(mut stream: &TcpStream, answer: &Answer, range: Option<&str>) -> std::io::Result<()> {
    let head = |status: u16, header: &str, length: usize| {
        format!("HTTP/1.1 {status} Told\r\n{header}\r\nContent-Length: {length}\r\n\r\n")
    };
    match answer {
        Answer::Content(media_type, body) => {
            let header = format!("Content-Type: {media_type}");
            stream.write_all(head(200, &header, body.len()).as_bytes())?;
            stream.write_all(body)
        }
        Answer::CutAfter(sent, body) | Answer::SilenceAfter(sent, body) => {
            stream.write_all(head(200, "X-Cut: 1", body.len()).as_bytes())?;
            stream.write_all(&body[..*sent])
        }
        Answer::Part(most, body) => {
            let from = range.map(|range| range.strip_prefix("bytes=").unwrap());
            let from = from.map_or(0, |from| from.strip_suffix('-').unwrap().parse().unwrap());
            let header = format!("Content-Range: bytes {from}-{}/{}", body.len() - 1, body.len());
            let (status, rest) = (if range.is_some() { 206 } else { 200 }, &body[from..]);
            stream.write_all(head(status, &header, rest.len()).as_bytes())?;
            stream.write_all(&rest[..rest.len().min(*most)])
        }
        Answer::WrongPart(body) => {
            let header = format!("Content-Range: bytes 0-{}/{}", body.len() - 1, body.len());
            stream.write_all(head(206, &header, body.len()).as_bytes())?;
            stream.write_all(body)
        }
        Answer::Unframed(body) => {
            stream.write_all(b"HTTP/1.1 200 Told\r\nConnection: close\r\n\r\n")?;
            stream.write_all(body)
        }
        Answer::Status(status, header, body) => {
            stream.write_all(head(*status, header, body.len()).as_bytes())?;
            stream.write_all(body.as_bytes())
        }
        Answer::Endless | Answer::EndlessRefusal => {
            let status = if matches!(answer, Answer::Endless) { 200 } else { 401 };
            let head = format!("HTTP/1.1 {status} Told\r\nConnection: close\r\n\r\n");
            stream.write_all(head.as_bytes())?;
            loop {
                stream.write_all(&[b' '; 1 << 16])?;
            }
        }
        Answer::Silence | Answer::Reset => Ok(()),
    }
}
