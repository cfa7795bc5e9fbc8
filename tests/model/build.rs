//! Sets the cfg that selects the checker's locks (src/sync.rs), so that no RUSTFLAGS are needed.

fn main() {
    println!("cargo::rustc-cfg=tower_aiuta_auth_model");
}
