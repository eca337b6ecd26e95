//! Pulls one image into a store and prints where its layers are.
//!
//! `cargo run -p ric-images --example pull -- STORE REFERENCE [HOST]…`, where each HOST may be
//! spoken to in plain HTTP.

use std::error::Error;
use std::io::Write;
use std::path::Path;

use ric_images::{
    Access, Asker, CredentialFiles, Form, Limits, LocalDocker, Registries, Silent, Store, Timeouts,
    ensure, resolve,
};

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(root), Some(reference)) = (arguments.next(), arguments.next()) else {
        return Err("usage: pull STORE REFERENCE [HOST]…".into());
    };
    let registries = Registries { plain_hosts: arguments.collect(), ..Registries::default() };
    let store = Store::open(Path::new(&root))?;
    let access = Access {
        store: Some(&store),
        registries: &registries,
        shifter_folders: &[],
        below: &[],
        asker: &Asker::default(),
        credentials: &CredentialFiles::default(),
        docker: &LocalDocker::default(),
        host_fingerprint: "",
        limits: &Limits::default(),
        timeouts: Timeouts::default(),
        progress: &Silent,
    };
    let manifest = resolve(&reference.parse()?, &access)?;
    let image = ensure(&manifest, Form::Layers, &access)?;
    let mut out = std::io::stdout();
    writeln!(out, "{} {}", manifest.reference, image.identity)?;
    for layer in &image.layers {
        writeln!(out, "{}", layer.display())?;
    }
    Ok(())
}
