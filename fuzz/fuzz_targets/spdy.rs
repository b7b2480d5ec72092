//! `spdy` under libFuzzer.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    let target = cirro_fuzz::Target::find("spdy").expect("the target");
    let directory = tempfile::tempdir().expect("a directory");
    (target.run)(bytes, directory.path());
});
