//! Looks for Intel's multi-buffer library (Debian: `libipsec-mb-dev`), a contender of the
//! bench `aead`. Without it the bench does without and says so.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(ipsec_mb)");
    println!("cargo::rerun-if-changed=src/ipsec_mb.c");
    println!("cargo::rerun-if-changed=/usr/include/intel-ipsec-mb.h");
    let built = cc::Build::new()
        .file("src/ipsec_mb.c")
        .warnings(true)
        .cargo_warnings(false)
        .try_compile("ringspan_ipsec_mb");
    if built.is_ok() {
        println!("cargo::rustc-link-lib=IPSec_MB");
        println!("cargo::rustc-cfg=ipsec_mb");
    }
}
