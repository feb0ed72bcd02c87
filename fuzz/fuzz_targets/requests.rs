//! See `requests` in src/fuzz/mod.rs.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| chat::fuzz::run("requests", input));
