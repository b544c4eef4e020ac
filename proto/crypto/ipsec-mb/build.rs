//! Compiles the shim around the library's inline dispatch, when the library is wanted.

fn main() {
    println!("cargo:rerun-if-changed=src/shim.c");
    #[cfg(feature = "link")]
    {
        cc::Build::new()
            .file("src/shim.c")
            .opt_level(2)
            .warnings_into_errors(true)
            .compile("ipsec_mb_shim");
        println!("cargo:rustc-link-lib=IPSec_MB");
    }
}
