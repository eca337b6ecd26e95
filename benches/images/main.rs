//! How long images take to come, to become one file, and to start as a SIF, side by side with
//! peers in one run: `cargo bench --bench images`, as root on Debian.
//!
//! The image is Debian with Python and numpy, 258 MiB in one gzip layer, in a registry on loopback.
//! Every round does each thing once, in an order of its own. Peers that are not installed are left
//! out by name. Nothing is asserted: the goals stand beside what was measured. Flag: `--rounds N`.

#![expect(clippy::print_stdout, reason = "a program that prints a table")]

mod floor;
mod peers;
#[path = "../series.rs"]
mod series;
mod site;

use std::error::Error;
use std::time::Duration;

use series::{Series, goal, order};
use site::{Ours, Site};

type Done<T> = Result<T, Box<dyn Error>>;

/// Processes that pull the same image at the same time.
const CROWD: usize = 50;

/// Something that is done once in a round and says how long it took.
struct Contender<'a> {
    name: &'static str,
    act: Box<dyn FnMut() -> Done<Duration> + 'a>,
}

fn main() -> Done<()> {
    if site::own_site_policy().is_none() {
        return site::start_again_with_own_site_policy();
    }
    let rounds = rounds(std::env::args().skip(1))?;
    let site = Site::new()?;
    let ours = site.ours();
    cold(&site, &ours, rounds)?;
    again(&ours, rounds)?;
    crowd(&ours)?;
    files(&site, &ours, rounds)
}

fn cold(site: &Site, ours: &Ours, rounds: u32) -> Done<()> {
    let blob = site.layer_blob()?;
    let (docker, podman) = (peers::Docker::start(site), peers::Podman::find(site));
    let mut contenders = vec![
        Contender { name: "floor: decompress, hash, write", act: Box::new(|| floor::pull(&blob)) },
        Contender { name: "ours: images pull", act: Box::new(|| ours.pull_cold()) },
    ];
    match &docker {
        Ok(docker) => {
            contenders.push(Contender { name: "docker pull", act: Box::new(|| docker.pull()) })
        }
        Err(why) => println!("left out: docker: {why}"),
    }
    match &podman {
        Ok(podman) => {
            contenders.push(Contender { name: "podman pull", act: Box::new(|| podman.pull()) })
        }
        Err(why) => println!("left out: podman: {why}"),
    }
    let series = measure(&mut contenders, rounds)?;
    series::print("pull and unpack, cold", &series, "floor: decompress, hash, write");
    let p50 = |name| series::p50(&series, name);
    let pull = p50("ours: images pull");
    let ratio = |name| Some(pull? / p50(name)?);
    goal("pull / docker pull", "at most 0.5", ratio("docker pull"), 0.5);
    goal("pull / podman pull", "at most 0.5", ratio("podman pull"), 0.5);
    goal("pull / floor", "at most 1.5", ratio("floor: decompress, hash, write"), 1.5);
    goal("memory of a pull, MiB", "under 64", Some(ours.peak_mib()?), 64.0);
    Ok(())
}

fn again(ours: &Ours, rounds: u32) -> Done<()> {
    ours.pull_cold()?;
    let mut contenders =
        [Contender { name: "ours: images pull, by digest", act: Box::new(|| ours.pull_again()) }];
    let series = measure(&mut contenders, rounds * 4)?;
    series::print("the same image again", &series, "");
    goal("pull again, ms", "under 20", series::p50(&series, contenders[0].name), 20.0);
    Ok(())
}

fn crowd(ours: &Ours) -> Done<()> {
    let alone = ours.pull_cold()?;
    let together = ours.pull_cold_by(CROWD)?;
    println!("\n{CROWD} processes at once: {:.0} ms, one: {:.0} ms", ms(together), ms(alone));
    goal("all / one", "at most 1.3", Some(ms(together) / ms(alone)), 1.3);
    Ok(())
}

fn files(site: &Site, ours: &Ours, rounds: u32) -> Done<()> {
    let apptainer = match peers::Apptainer::find(site) {
        Ok(apptainer) => apptainer,
        Err(why) => {
            println!("left out: files beside apptainer: {why}");
            return Ok(());
        }
    };
    ours.pull_cold()?;
    let mut contenders = [
        Contender { name: "ours: convert to squashfs", act: Box::new(|| ours.convert()) },
        Contender { name: "apptainer build, to SIF", act: Box::new(|| apptainer.build()) },
    ];
    let series = measure(&mut contenders, rounds.min(3))?;
    series::print("an image as one file", &series, "apptainer build, to SIF");
    let ratio = |a, b| Some(series::p50(&series, a)? / series::p50(&series, b)?);
    let faster = ratio("ours: convert to squashfs", "apptainer build, to SIF");
    goal("convert / apptainer build", "at most 0.5", faster, 0.5);
    drop(contenders);
    // Root's own: one that another user may have written is not given to the kernel.
    let sif = site.path("image.sif");
    std::fs::copy(apptainer.sif(), &sif)?;
    let mut contenders = [
        Contender { name: "floor: hash and copy", act: Box::new(|| floor::hash_and_copy(&sif)) },
        Contender { name: "ours: run, first", act: Box::new(|| ours.run_first(&sif)) },
        Contender { name: "ours: run, later", act: Box::new(|| ours.run_later(&sif)) },
        Contender { name: "apptainer exec", act: Box::new(|| apptainer.exec()) },
    ];
    let series = measure(&mut contenders, rounds)?;
    series::print("a SIF: /bin/true in it", &series, "apptainer exec");
    let ratio = |a, b| Some(series::p50(&series, a)? / series::p50(&series, b)?);
    let first = ratio("ours: run, first", "floor: hash and copy");
    goal("first run / floor", "at most 1.5", first, 1.5);
    goal("later run / exec", "at most 0.125", ratio("ours: run, later", "apptainer exec"), 0.125);
    Ok(())
}

fn measure(contenders: &mut [Contender<'_>], rounds: u32) -> Done<Vec<Series>> {
    let mut series: Vec<Series> = contenders.iter().map(|c| Series::new(c.name)).collect();
    for round in 0..rounds {
        for at in order(contenders.len(), round) {
            series[at].add((contenders[at].act)()?);
        }
    }
    Ok(series)
}

fn ms(took: Duration) -> f64 {
    took.as_secs_f64() * 1e3
}

fn rounds(mut words: impl Iterator<Item = String>) -> Done<u32> {
    let mut rounds = 5;
    while let Some(word) = words.next() {
        match word.as_str() {
            "--rounds" => rounds = words.next().ok_or("--rounds needs a number")?.parse()?,
            // What `cargo bench` adds.
            "--bench" => {}
            _ => return Err(format!("unknown flag {word}").into()),
        }
    }
    Ok(rounds)
}
