//! The checked-in code is what the protocol files give.

use std::fs;
use std::path::Path;

const FILES: [&str; 2] = ["mvccpb.rs", "etcdserverpb.rs"];

#[test]
fn the_code_is_what_the_protocol_files_give() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let made = tempfile::tempdir().unwrap();
    let descriptors = protox::compile(["rpc.proto", "kv.proto"], [root.join("proto")]).unwrap();
    tonic_prost_build::configure().out_dir(made.path()).compile_fds(descriptors).unwrap();
    for file in FILES {
        let wanted = fs::read_to_string(made.path().join(file)).unwrap();
        let kept = root.join("src/generated").join(file);
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&kept, &wanted).unwrap();
        }
        let found = fs::read_to_string(&kept).unwrap();
        assert!(found == wanted, "{} is not what proto/ gives: UPDATE=1 writes it anew", kept.display());
    }
}
