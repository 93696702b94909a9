//! Builds the keeper (`keeper/`) for the containers of both architectures, and puts it beside what is compiled, compressed.
//!
//! It is a static program for musl, linked by the linker that comes with Rust: no other tool is needed, on Linux and macOS alike.
//! What is needed is `rustup target add x86_64-unknown-linux-musl aarch64-unknown-linux-musl`. A target that is missing is warned
//! of, and sessions in containers of that architecture say so. `STEADFAST_KEEPER_DIR` names a directory with `keeper-x86_64` and
//! `keeper-aarch64` that were built elsewhere.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ARCHES: [&str; 2] = ["x86_64", "aarch64"];

fn main() {
    for path in ["build.rs", "keeper/src", "keeper/Cargo.toml", "Cargo.toml", "Cargo.lock"] {
        println!("cargo::rerun-if-changed={path}");
    }
    println!("cargo::rerun-if-env-changed=STEADFAST_KEEPER_DIR");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    for arch in ARCHES {
        // What is fuzzed puts nothing into containers.
        let is_fuzzed = env::var_os("CARGO_CFG_FUZZING").is_some();
        let built = if is_fuzzed { None } else { Some(program(arch, &out)) };
        let packed = match built {
            None => Vec::new(),
            Some(Ok(program)) => pack(&fs::read(&program).unwrap_or_else(|err| panic!("{}: {err}", program.display()))),
            Some(Err(why)) => {
                println!("cargo::warning=no keeper for {arch}: {why}");
                Vec::new()
            }
        };
        fs::write(out.join(format!("keeper-{arch}.zst")), packed).expect("OUT_DIR can be written");
    }
}

fn pack(program: &[u8]) -> Vec<u8> {
    zstd::encode_all(program, 19).expect("memory can be compressed")
}

/// The program for this architecture.
fn program(arch: &str, out: &Path) -> Result<PathBuf, String> {
    if let Some(dir) = env::var_os("STEADFAST_KEEPER_DIR") {
        let built = Path::new(&dir).join(format!("keeper-{arch}"));
        println!("cargo::rerun-if-changed={}", built.display());
        return if built.is_file() { Ok(built) } else { Err(format!("{} is not there", built.display())) };
    }
    let target = format!("{arch}-unknown-linux-musl");
    if !has_target(&target) {
        return Err(format!("`rustup target add {target}`, then build again"));
    }
    // Beside the profiles of whatever is built: shared by all of them.
    let dir =
        out.ancestors().find(|dir| dir.ends_with("build")).and_then(|build| build.parent()?.parent()).unwrap_or(out);
    let dir = dir.join("keeper");
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["build", "--quiet", "--locked", "--package", "steadfast-keeper", "--bin", "steadfast-keeper"]);
    cargo.args(["--profile", "keeper", "--target", &target, "--target-dir"]).arg(&dir);
    // What is asked of the outer build (flags, wrappers, counters for fuzzing) is not meant for this one.
    for (name, _) in env::vars_os() {
        let steers = ["CARGO_", "RUST"].iter().any(|beginning| name.to_string_lossy().starts_with(beginning));
        let stays =
            ["CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "CARGO_NET_OFFLINE", "CARGO_HTTP_CAINFO", "RUSTC"];
        if steers
            && !stays.contains(&name.to_string_lossy().as_ref())
            && !name.to_string_lossy().starts_with("CARGO_REGISTRIES")
        {
            cargo.env_remove(&name);
        }
    }
    let key = target.to_uppercase().replace('-', "_");
    cargo.env(format!("CARGO_TARGET_{key}_LINKER"), "rust-lld");
    cargo.env(format!("CARGO_TARGET_{key}_RUSTFLAGS"), "-Clinker-flavor=ld.lld -Clink-self-contained=yes");
    let built = cargo.output().map_err(|err| format!("cargo cannot be run: {err}"))?;
    if !built.status.success() {
        let said = String::from_utf8_lossy(&built.stderr);
        panic!("the keeper for {arch} cannot be built:\n{said}");
    }
    Ok(dir.join(target).join("keeper/steadfast-keeper"))
}

/// Whether Rust's own library is there for it.
fn has_target(target: &str) -> bool {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let told = Command::new(rustc).args(["--print", "target-libdir", "--target", target]).output();
    told.is_ok_and(|told| Path::new(String::from_utf8_lossy(&told.stdout).trim()).is_dir())
}
