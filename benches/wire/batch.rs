//! How many no-ops a second the Rust client gets from a daemon, many of them under way at once:
//! `cargo bench --bench wire -- SOCKET`, as `benches/wire/run` does it.

#![expect(clippy::print_stdout, reason = "a bench tells what it measured")]

use std::error::Error;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use ric_runtime::{Arguments, Call, Client, Heard, Preload, Status};

/// Calls that are under way at once.
const AHEAD: usize = 512;
/// How long each round takes; the best of them counts.
const ROUND: Duration = Duration::from_secs(2);
const ROUNDS: usize = 3;

fn main() -> Result<(), Box<dyn Error>> {
    let socket = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let socket = socket.ok_or("SOCKET of a daemon is missing")?;
    let mut client = Client::new(UnixStream::connect(socket)?, "benches/wire/batch")?;
    let ask = serde_json::json!({"image": "host:", "fresh": "nothing"});
    let pool = client.open(&ask, &[])?.map_err(|ended| ended.error)?;
    let call = Call {
        interpreters: Vec::new(),
        file_name: "noop.py".to_owned(),
        source: b"def noop():\n    pass\n".to_vec(),
        function: "noop".to_owned(),
        arguments: Arguments::Json { positional: Vec::new(), named: Default::default() },
        preload: Preload::default(),
    };
    let mut best = 0.0_f64;
    for _ in 0..ROUNDS {
        let (begun, mut done, mut under_way) = (Instant::now(), 0_u32, 0);
        while begun.elapsed() < ROUND || under_way > 0 {
            while under_way < AHEAD && begun.elapsed() < ROUND {
                client.call(&pool, &call)?;
                under_way += 1;
            }
            if let Heard::CallEnded(_, end) = client.hear()? {
                if end.status != Status::Ok {
                    return Err(end.error.unwrap_or_default().into());
                }
                under_way -= 1;
                done += 1;
            }
        }
        best = best.max(f64::from(done) / begun.elapsed().as_secs_f64());
    }
    println!("{best:.0}");
    Ok(())
}
