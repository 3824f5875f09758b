//! Makes a change of core's sources in this work tree count. cargo notes the sources of a package by their names with all links
//! followed, so absolutely where they lie outside of the package; in a target directory that two work trees share, those names
//! may be the other tree's.

fn main() {
    println!("cargo::rerun-if-changed=src");
}
