//! Measures unpacking: `unpack DIRECTORY BLOB…` prints, for each blob, the time to decompress and
//! hash it, to unpack it, and to unpack it into a store, which also brings it to disk.
#![allow(clippy::print_stdout)]

use std::error::Error;
use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::Instant;

use flate2::bufread::MultiGzDecoder;
use ric_images::{Digest, LayerDescriptor, Limits, MediaType, Store, unpack_layer};
use sha2::{Digest as _, Sha256};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args_os().skip(1);
    let directory = arguments.next().ok_or("usage: unpack DIRECTORY BLOB…")?;
    let directory = Path::new(&directory);
    for blob in arguments {
        measure(directory, Path::new(&blob))?;
    }
    Ok(())
}

fn measure(directory: &Path, blob: &Path) -> Result<(), Box<dyn Error>> {
    println!("{}", blob.display());
    let (layer, floor) = timed("decompress and hash", || describe(blob))?;

    let tree = directory.join("tree");
    fs::create_dir_all(&tree)?;
    let root = File::open(&tree)?;
    let limits = Limits::default();
    let ((), unpacked) = timed("unpack", || {
        unpack_layer(&layer, &mut File::open(blob)?, &limits, root.as_fd())?;
        Ok(())
    })?;
    println!("  {:.2} times", unpacked / floor);
    fs::remove_dir_all(&tree)?;

    let store = Store::open(&directory.join("store"))?;
    timed("into a store", || Ok(store.add_layer(&layer, &mut File::open(blob)?, &limits)?))?;
    let (damage, _) = timed("check the store", || Ok(store.check()?))?;
    assert!(damage.is_empty(), "{damage:?}");
    timed("remove from the store", || Ok(store.remove_layer(&layer.diff_id)?))?;
    Ok(())
}

/// Runs `act` and prints how long it took by the clock and in all threads together.
fn timed<T>(
    name: &str,
    act: impl FnOnce() -> Result<T, Box<dyn Error>>,
) -> Result<(T, f64), Box<dyn Error>> {
    let (start, cpu_start) = (Instant::now(), cpu_s()?);
    let made = act()?;
    let elapsed_s = start.elapsed().as_secs_f64();
    println!("  {name}: {elapsed_s:.3} s, {:.2} s of processor", cpu_s()? - cpu_start);
    Ok((made, elapsed_s))
}

/// Seconds of processor this process has used: `utime` and `stime` of proc_pid_stat(5), in ticks of
/// 10 ms on every Linux (`USER_HZ`).
fn cpu_s() -> Result<f64, Box<dyn Error>> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace().skip(11).take(2);
    let ticks: Vec<f64> = fields.map(str::parse).collect::<Result<_, _>>()?;
    Ok(ticks.iter().sum::<f64>() / 100.0)
}

/// Decompresses and hashes a blob as simply as can be, in one thread.
fn describe(blob: &Path) -> Result<LayerDescriptor, Box<dyn Error>> {
    let mut file = Hashing { inner: File::open(blob)?, hasher: Sha256::new() };
    let media_type = match blob.extension().and_then(|extension| extension.to_str()) {
        Some("gz") => MediaType::TarGzip,
        Some("zst") => MediaType::TarZstd,
        _ => MediaType::Tar,
    };
    let packed = BufReader::with_capacity(1 << 18, &mut file);
    let mut unpacked: Box<dyn Read> = match media_type {
        MediaType::Tar => Box::new(packed),
        MediaType::TarGzip => Box::new(MultiGzDecoder::new(packed)),
        MediaType::Squashfs | MediaType::Sif => return Err("only tar layers are measured".into()),
        MediaType::TarZstd => Box::new(zstd::stream::read::Decoder::with_buffer(packed)?),
    };
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 18];
    loop {
        let count = unpacked.read(&mut buffer)?;
        if count == 0 {
            break;
        }
        hasher.update(&buffer[..count]);
    }
    drop(unpacked);
    let blob_bytes = fs::metadata(blob)?.len();
    let (digest, diff_id) = (digest_of(file.hasher)?, digest_of(hasher)?);
    Ok(LayerDescriptor { digest, diff_id, blob_bytes, media_type })
}

fn digest_of(hasher: Sha256) -> Result<Digest, Box<dyn Error>> {
    let hex: String = hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("sha256:{hex}").parse()?)
}

struct Hashing<R> {
    inner: R,
    hasher: Sha256,
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.inner.read(buffer)?;
        self.hasher.update(&buffer[..count]);
        Ok(count)
    }
}
