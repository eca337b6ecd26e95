//! What all rows need: the image, a registry that has it, our program with a policy of its own.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::Done;

/// The program under measurement, built as for release.
const OURS: &str = env!("CARGO_BIN_EXE_run-in-container");
/// The machine's place for large files that need not stay.
const SCRATCH: &str = "/var/tmp";
/// Where the registry listens.
const REGISTRY: &str = "127.0.0.1:5056";
/// Set when this program runs where `/etc` has the policy below.
const INSIDE: &str = "RIC_BENCH_INSIDE";

/// The directory of the policy of this bench, if it is the site's.
#[expect(clippy::disallowed_methods, reason = "so a process knows that it was started again")]
pub(crate) fn own_site_policy() -> Option<PathBuf> {
    std::env::var_os(INSIDE).map(PathBuf::from)
}

/// Replaces this process by itself, in a mount namespace in which the site allows plain HTTP to the
/// registry on loopback.
pub(crate) fn start_again_with_own_site_policy() -> Done<()> {
    let etc = scratch("etc")?;
    fs::create_dir(etc.join("run-in-container"))?;
    let policy = format!("version: 1\nname: bench\nregistries: {{insecure: [\"{REGISTRY}\"]}}\n");
    fs::write(etc.join("run-in-container/policy.yaml"), policy)?;
    let mount =
        format!("mount -t overlay -o lowerdir={}:/etc overlay /etc && exec \"$@\"", etc.display());
    let error = Command::new("unshare")
        .args(["--mount", "sh", "-c", &mount, "sh"])
        .arg(std::env::current_exe()?)
        .args(std::env::args().skip(1))
        .env(INSIDE, etc)
        .exec();
    Err(error.into())
}

/// An empty directory of this run.
pub(crate) fn scratch(name: &str) -> Done<PathBuf> {
    let path = Path::new(SCRATCH).join(format!("ric-bench-{}-{name}", std::process::id()));
    if path.exists() {
        fs::remove_dir_all(&path)?;
    }
    fs::create_dir_all(&path)?;
    Ok(path)
}

/// The image and a running registry that has it. Dropping it ends the registry.
pub(crate) struct Site {
    base: PathBuf,
    layout: PathBuf,
    layer: String,
    manifest: String,
    registry: Child,
}

impl Site {
    pub(crate) fn new() -> Done<Site> {
        let base = scratch("site")?;
        let layout = base.join("layout");
        let tar = root_tar()?;
        println!("image: {} MiB of files", tar.len() >> 20);
        let (layer, manifest) = write_layout(&layout, &tar)?;
        let config = json!({
            "version": 0.1,
            "storage": {"filesystem": {"rootdirectory": base.join("registry")}},
            "http": {"addr": REGISTRY},
            "log": {"level": "error", "accesslog": {"disabled": true}},
        });
        // YAML has all of JSON.
        fs::write(base.join("registry.yml"), config.to_string())?;
        #[expect(clippy::disallowed_methods, reason = "ended when the site is dropped")]
        let registry = Command::new("docker-registry")
            .arg("serve")
            .arg(base.join("registry.yml"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let site = Site { base, layout, layer, manifest, registry };
        site.push()?;
        Ok(site)
    }

    fn push(&self) -> Done<()> {
        let mut line = Command::new("skopeo");
        line.args(["copy", "--quiet", "--dest-tls-verify=false", "--retry-times=5"]);
        line.arg(format!("oci:{}:latest", self.layout.display()));
        line.arg(format!("docker://{}", self.name()));
        run(&mut line).map(|_| ())
    }

    /// What the registry calls the image.
    pub(crate) fn name(&self) -> String {
        format!("{REGISTRY}/numpy:latest")
    }

    /// The registry, as peers want to know it.
    pub(crate) fn registry(&self) -> &'static str {
        REGISTRY
    }

    /// A path below this run's directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.base.join(name)
    }

    /// The gzip layer.
    pub(crate) fn layer_blob(&self) -> Done<Vec<u8>> {
        Ok(fs::read(self.layout.join("blobs/sha256").join(&self.layer))?)
    }

    /// The image as an OCI layout.
    pub(crate) fn layout(&self) -> &Path {
        &self.layout
    }

    /// Our program, with a store of its own.
    pub(crate) fn ours(&self) -> Ours {
        Ours {
            store: self.base.join("store"),
            tag: format!("docker://{}", self.name()),
            pinned: format!("docker://{REGISTRY}/numpy@sha256:{}", self.manifest),
            file: self.path("ours.squashfs"),
        }
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        // The registry keeps nothing that anybody needs.
        let _ = self.registry.kill();
        let _ = self.registry.wait();
        let _ = fs::remove_dir_all(&self.base);
        if let Some(etc) = own_site_policy() {
            let _ = fs::remove_dir_all(etc);
        }
    }
}

/// The root file system as a tar, made once and kept below the build directory.
fn root_tar() -> Done<Vec<u8>> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/peers/numpy");
    let path = run(Command::new(script).arg("make"))?;
    Ok(fs::read(path.trim())?)
}

/// Writes the image as an OCI layout; returns its layer and its manifest.
fn write_layout(layout: &Path, tar: &[u8]) -> Done<(String, String)> {
    let blobs = layout.join("blobs/sha256");
    fs::create_dir_all(&blobs)?;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut gzip, tar)?;
    let layer = gzip.finish()?;
    let put = |media: &str, bytes: &[u8]| -> Done<Value> {
        let name = hex(bytes);
        fs::write(blobs.join(&name), bytes)?;
        let media = format!("application/vnd.oci.image.{media}");
        Ok(json!({"mediaType": media, "digest": format!("sha256:{name}"), "size": bytes.len()}))
    };
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "config": {"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["/bin/bash"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", hex(tar))]},
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put("config.v1+json", config.to_string().as_bytes())?,
        "layers": [put("layer.v1.tar+gzip", &layer)?],
    });
    let mut entry = put("manifest.v1+json", manifest.to_string().as_bytes())?;
    entry["annotations"] = json!({"org.opencontainers.image.ref.name": "latest"});
    let index = json!({"schemaVersion": 2, "manifests": [entry]});
    fs::write(layout.join("index.json"), index.to_string())?;
    fs::write(layout.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
    Ok((hex(&layer), hex(manifest.to_string().as_bytes())))
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs a command to its end; what it printed.
pub(crate) fn run(line: &mut Command) -> Done<String> {
    let output = line.output()?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("{line:?}: {}: {said}", output.status).into());
    }
    Ok(String::from_utf8(output.stdout)?)
}

/// How long a command takes, as a whole process.
pub(crate) fn timed(line: &mut Command) -> Done<Duration> {
    let start = Instant::now();
    run(line)?;
    Ok(start.elapsed())
}

/// Our program.
pub(crate) struct Ours {
    store: PathBuf,
    tag: String,
    pinned: String,
    file: PathBuf,
}

impl Ours {
    fn images(&self, verb: &str, reference: &str) -> Command {
        let mut line = Command::new(OURS);
        line.args(["images", verb, "--store"]).arg(&self.store).arg(reference);
        line
    }

    fn empty_store(&self) -> Done<()> {
        if self.store.exists() {
            fs::remove_dir_all(&self.store)?;
        }
        rustix::fs::sync();
        Ok(())
    }

    /// Into an empty store.
    pub(crate) fn pull_cold(&self) -> Done<Duration> {
        self.empty_store()?;
        timed(&mut self.images("pull", &self.tag))
    }

    /// Into an empty store, by so many processes at once.
    pub(crate) fn pull_cold_by(&self, processes: usize) -> Done<Duration> {
        self.empty_store()?;
        let start = Instant::now();
        let mut all = Vec::new();
        for _ in 0..processes {
            #[expect(clippy::disallowed_methods, reason = "waited for below")]
            all.push(self.images("pull", &self.tag).stdout(Stdio::null()).spawn()?);
        }
        for mut process in all {
            if !process.wait()?.success() {
                return Err("one of the crowd failed".into());
            }
        }
        Ok(start.elapsed())
    }

    /// What the store has, by its digest.
    pub(crate) fn pull_again(&self) -> Done<Duration> {
        timed(&mut self.images("pull", &self.pinned))
    }

    /// The most memory that a cold pull had, in MiB, by looking every few milliseconds.
    pub(crate) fn peak_mib(&self) -> Done<f64> {
        self.empty_store()?;
        #[expect(clippy::disallowed_methods, reason = "waited for below")]
        let mut process = self.images("pull", &self.tag).stdout(Stdio::null()).spawn()?;
        let status = format!("/proc/{}/status", process.id());
        let mut peak_kib: u32 = 0;
        while process.try_wait()?.is_none() {
            let text = fs::read_to_string(&status).unwrap_or_default();
            let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let number = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
            peak_kib = peak_kib.max(number.unwrap_or(0));
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(f64::from(peak_kib) / 1024.0)
    }

    /// From what the store has.
    pub(crate) fn convert(&self) -> Done<Duration> {
        if self.file.exists() {
            fs::remove_file(&self.file)?;
        }
        timed(self.images("convert", &self.tag).arg(format!("squashfs:{}", self.file.display())))
    }

    fn run(&self, sif: &Path) -> Command {
        let mut line = Command::new(OURS);
        line.args(["run", "--store"]).arg(&self.store);
        line.args(["--image", &format!("sif:{}", sif.display()), "--", "/bin/true"]);
        line
    }

    /// With a store that does not have it.
    pub(crate) fn run_first(&self, sif: &Path) -> Done<Duration> {
        self.empty_store()?;
        timed(&mut self.run(sif))
    }

    /// With a store that has it.
    pub(crate) fn run_later(&self, sif: &Path) -> Done<Duration> {
        run(&mut self.run(sif))?;
        timed(&mut self.run(sif))
    }
}
