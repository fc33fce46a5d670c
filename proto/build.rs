//! Compiles `node/v1/*.proto` with protoc (Debian package `protobuf-compiler`) into `OUT_DIR`.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=node");
    tonic_prost_build::configure().bytes(".").compile_protos(&["node/v1/node.proto"], &["."])?;
    Ok(())
}
