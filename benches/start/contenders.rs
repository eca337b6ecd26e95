//! Who starts: ours, the floor, and the peers that are installed.

use std::error::Error;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::json;

/// The program under measurement, built as for release.
pub(crate) const OURS: &str = env!("CARGO_BIN_EXE_run-in-container");
/// The interpreter that `host:` shows.
const PYTHON: &str = "/usr/bin/python3";

/// Names of contenders, which the goals refer to.
pub(crate) mod name {
    pub(crate) const FLOOR: &str = "floor";
    pub(crate) const IN_PROCESS_FLOOR: &str = "ours, in one process: floor's program";
    pub(crate) const IN_PROCESS: &str = "ours, in one process: /bin/true";
    pub(crate) const RUN: &str = "ours: run /bin/true";
    pub(crate) const CALL: &str = "ours: call of a no-op";
    pub(crate) const BWRAP: &str = "bwrap /bin/true";
    pub(crate) const BWRAP_PYTHON: &str = "bwrap python3 -c pass";
    pub(crate) const RUNC: &str = "runc run /bin/true";
    pub(crate) const DOCKER: &str = "docker run /bin/true";
    pub(crate) const APPTAINER: &str = "apptainer exec /bin/true";
}

/// Something that starts a sandbox and waits for its end.
pub(crate) struct Contender {
    /// What the table calls it.
    pub(crate) name: &'static str,
    start: Start,
}

type Start = Box<dyn FnMut() -> Result<Duration, Box<dyn Error>>>;

impl Contender {
    /// One whose time something else takes.
    pub(crate) fn new(name: &'static str, start: Start) -> Contender {
        Contender { name, start }
    }

    /// A whole process, from before its start to its end.
    fn process(name: &'static str, words: Vec<String>) -> Contender {
        let start = move || {
            let mut command = command(&words);
            let start = Instant::now();
            let status = command.status()?;
            let took = start.elapsed();
            if status.success() { Ok(took) } else { Err(format!("it ended with {status}").into()) }
        };
        Contender::new(name, Box::new(start))
    }

    /// Starts once.
    pub(crate) fn start(&mut self) -> Result<Duration, Box<dyn Error>> {
        (self.start)()
    }
}

fn command(words: &[String]) -> Command {
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdin(Stdio::null()).stdout(Stdio::null());
    command
}

/// Files that contenders need. Removed when this is dropped.
pub(crate) struct Site {
    /// The directory of all.
    pub(crate) base: PathBuf,
}

impl Site {
    pub(crate) fn new() -> Result<Site, Box<dyn Error>> {
        let base = std::env::temp_dir().join(format!("ric-bench-{}", std::process::id()));
        for name in ["floor/lower", "floor/empty", "floor/target", "runc/rootfs", "store"] {
            fs::create_dir_all(base.join(name))?;
        }
        fs::write(base.join("noop.py"), "def noop():\n    pass\n")?;
        Ok(Site { base })
    }

    /// A path below the directory, as a word.
    pub(crate) fn word(&self, name: &str) -> String {
        self.base.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // What could not be removed is below the machine's directory for temporary files.
        let _ = fs::remove_dir_all(&self.base);
    }
}

/// A command line of ours with the site's own store.
pub(crate) fn ours(site: &Site, verb: &str, words: &[&str]) -> Vec<String> {
    let mut line = vec![OURS.to_owned(), verb.to_owned(), "--store".to_owned(), site.word("store")];
    line.extend(words.iter().map(|word| (*word).to_owned()));
    line
}

/// All that can start here, and why the others cannot.
pub(crate) fn all(site: &Site) -> (Vec<Contender>, Vec<String>) {
    let mut left_out = Vec::new();
    let mut found = Vec::new();
    let mut add = |made: Result<Contender, Box<dyn Error>>, name: &str| match made {
        Ok(contender) => found.push(contender),
        Err(why) => left_out.push(format!("{name}: {why}")),
    };
    add(floor(site), name::FLOOR);
    add(crate::in_process::of_floor(site), name::IN_PROCESS_FLOOR);
    add(crate::in_process::of_host(site), name::IN_PROCESS);
    add(Ok(Contender::process(name::RUN, ours(site, "run", &["--", "/bin/true"]))), name::RUN);
    add(bwrap(name::BWRAP, &["/bin/true"]), name::BWRAP);
    add(runc(site), name::RUNC);
    add(docker(), name::DOCKER);
    add(apptainer(site), name::APPTAINER);
    let function = format!("{}:noop", site.word("noop.py"));
    add(Ok(Contender::process(name::CALL, ours(site, "call", &[&function]))), name::CALL);
    add(bwrap(name::BWRAP_PYTHON, &[PYTHON, "-c", "pass"]), name::BWRAP_PYTHON);
    (found, left_out)
}

/// Compiles the floor and the program that it starts.
fn floor(site: &Site) -> Result<Contender, Box<dyn Error>> {
    let program = site.word("floor/floor");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("benches/start/floor.c");
    let nothing = site.base.join("nothing.c");
    fs::write(&nothing, "int main(void) { return 0; }\n")?;
    compile(&source, &program, &[])?;
    compile(&nothing, &site.word("floor/lower/nothing"), &["-static"])?;
    let mut words = vec![program, "1".to_owned()];
    words.extend(["lower", "empty", "target"].map(|name| site.word(&format!("floor/{name}"))));
    let start = move || {
        let output = command(&words).stdout(Stdio::piped()).output()?;
        let printed = String::from_utf8(output.stdout)?;
        Ok(Duration::from_nanos(printed.trim().parse()?))
    };
    Ok(Contender::new(name::FLOOR, Box::new(start)))
}

fn compile(source: &Path, target: &str, flags: &[&str]) -> Result<(), Box<dyn Error>> {
    let status = Command::new("cc").args(["-O2", "-o", target]).arg(source).args(flags).status()?;
    if status.success() { Ok(()) } else { Err(format!("cc ended with {status}").into()) }
}

/// What `host:` shows, as near as bubblewrap's flags come to it.
fn bwrap(name: &'static str, program: &[&str]) -> Result<Contender, Box<dyn Error>> {
    let mut words: Vec<String> = ["bwrap", "--unshare-all", "--ro-bind", "/usr", "/usr"]
        .iter()
        .map(|word| (*word).to_owned())
        .collect();
    for (link, target) in root_links() {
        words.extend(["--symlink".to_owned(), target, format!("/{link}")]);
    }
    let rest = ["--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"];
    words.extend(rest.iter().chain(program).map(|word| (*word).to_owned()));
    Ok(Contender::process(name, words))
}

/// Links at the root, such as `bin -> usr/bin`.
fn root_links() -> Vec<(&'static str, String)> {
    ["bin", "sbin", "lib", "lib64"]
        .into_iter()
        .filter_map(|link| {
            let target = fs::read_link(Path::new("/").join(link)).ok()?;
            Some((link, target.to_string_lossy().into_owned()))
        })
        .collect()
}

/// runc with its own default specification, but for the root.
fn runc(site: &Site) -> Result<Contender, Box<dyn Error>> {
    let bundle = site.base.join("runc");
    let made = Command::new("runc").arg("spec").current_dir(&bundle).status()?;
    if !made.success() {
        return Err(format!("runc spec ended with {made}").into());
    }
    for (link, target) in root_links() {
        symlink(target, bundle.join("rootfs").join(link))?;
    }
    let config = bundle.join("config.json");
    let mut spec: serde_json::Value = serde_json::from_slice(&fs::read(&config)?)?;
    spec["process"]["terminal"] = json!(false);
    spec["process"]["args"] = json!(["/bin/true"]);
    let options = ["rbind", "ro"];
    let usr = json!({"destination": "/usr", "type": "bind", "source": "/usr", "options": options});
    let mounts = spec["mounts"].as_array_mut().ok_or("runc spec has no mounts")?;
    mounts.push(usr);
    fs::write(&config, spec.to_string())?;
    let (state, bundle) = (site.word("runc/state"), site.word("runc"));
    let id = format!("bench-{}", std::process::id());
    let words = ["runc", "--root", &state, "run", "--bundle", &bundle, &id].map(str::to_owned);
    Ok(Contender::process(name::RUNC, words.to_vec()))
}

/// Docker with the smallest image that it has.
fn docker() -> Result<Contender, Box<dyn Error>> {
    let images = Command::new("docker")
        .args(["images", "--format", "{{.ID}}", "--filter", "dangling=false"])
        .stderr(Stdio::null())
        .output()?;
    let images = String::from_utf8(images.stdout)?;
    let image = images.lines().next().ok_or("no daemon, or no image in it")?;
    let words = ["docker", "run", "--rm", "--network", "none", image, "/bin/true"];
    Ok(Contender::process(name::DOCKER, words.map(str::to_owned).to_vec()))
}

fn apptainer(site: &Site) -> Result<Contender, Box<dyn Error>> {
    Command::new("apptainer").arg("--version").stdout(Stdio::null()).status()?;
    let root = site.base.join("apptainer/bin");
    fs::create_dir_all(&root)?;
    fs::copy("/bin/busybox", root.join("true"))
        .map_err(|error| format!("/bin/busybox: {error}"))?;
    symlink("true", root.join("sh"))?;
    let words = ["apptainer", "exec", "-C", &site.word("apptainer"), "/bin/true"];
    Ok(Contender::process(name::APPTAINER, words.map(str::to_owned).to_vec()))
}
