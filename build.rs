//! Compiles `proto/` with a compiler written in Rust, so that no system
//! `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/snapswarm/v1/endorsement.proto",
        "proto/snapswarm/v1/manifest.proto",
        "proto/snapswarm/v1/state.proto",
        "proto/snapswarm/v1/wire.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed={file}");
    }
    let descriptors = protox::compile(files, ["proto"])?;
    prost_build::Config::new()
        .bytes(["."])
        .compile_fds(descriptors)?;
    Ok(())
}
