//! Puts the checker's locks into the sources (src/sync.rs), without RUSTFLAGS that everybody would have to remember.

fn main() {
    println!("cargo::rustc-cfg=tower_aiuta_auth_model");
}
