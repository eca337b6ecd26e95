//! Builds `init`, the static program of every sandbox, and leaves it where `native` includes it.
//!
//! Calls the compiler directly and not cargo, because a program without libc needs its own linker
//! flags and `panic=abort` whatever the profile of the workspace is.

use std::env;
use std::path::PathBuf;
use std::process::Command;

#[expect(clippy::disallowed_methods, reason = "cargo speaks to build scripts by the environment")]
fn main() {
    println!("cargo::rerun-if-changed=init");
    let variable = |name: &str| env::var(name).unwrap_or_default();
    let architecture = variable("CARGO_CFG_TARGET_ARCH");
    if architecture != "x86_64" || variable("CARGO_CFG_TARGET_OS") != "linux" {
        println!("cargo::error=init speaks to Linux on x86_64 only, not to {architecture}");
        return;
    }
    let program = PathBuf::from(variable("OUT_DIR")).join("init");
    let mut compiler = Command::new(variable("RUSTC"));
    compiler.args(["--edition", "2024", "--crate-type", "bin", "--crate-name", "init"]);
    compiler.args(["--target", &variable("TARGET"), "init/main.rs", "-o"]).arg(&program);
    for option in ["panic=abort", "opt-level=s", "debuginfo=0", "strip=symbols"] {
        compiler.args(["-C", option]);
    }
    // Static and not position-independent: nothing to relocate, so no page is touched for it.
    for option in ["relocation-model=static", "overflow-checks=off"] {
        compiler.args(["-C", option]);
    }
    for option in ["-nostartfiles", "-nostdlib", "-static", "-no-pie", "-Wl,--build-id=none"] {
        compiler.arg("-C").arg(format!("link-arg={option}"));
    }
    compiler.args(["-D", "warnings"]);
    match compiler.status() {
        Ok(status) if status.success() => {}
        other => println!("cargo::error=the compiler could not build init: {other:?}"),
    }
}
