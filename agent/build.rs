//! Embeds the eBPF object that `cargo xtask ebpf` left in target/ebpf, when there is one.
//!
//! Never compiles it: checks, lints and editors work without a BPF toolchain, and an agent built without the
//! object says so when it starts.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-env-changed=GANTRY_DATAPATH_OBJECT");
    let object = match env::var_os("GANTRY_DATAPATH_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => {
            let directory = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("../target/ebpf");
            // Cargo takes a missing path for a changed one and would rebuild the agent every time.
            fs::create_dir_all(&directory)?;
            let directory = directory.canonicalize()?;
            println!("cargo::rerun-if-changed={}", directory.display());
            directory.join("gantry-datapath.o")
        }
    };
    println!("cargo::rerun-if-changed={}", object.parent().unwrap_or(&object).display());
    let value = if object.is_file() {
        format!("Some(aya::include_bytes_aligned!({object:?}))")
    } else {
        "None".to_owned()
    };
    let generated = PathBuf::from(env::var("OUT_DIR")?).join("datapath_object.rs");
    fs::write(generated, format!("static EMBEDDED: Option<&[u8]> = {value};\n"))?;
    Ok(())
}
