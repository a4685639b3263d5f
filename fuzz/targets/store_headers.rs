//! The head and body of a store's answer.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| bucket_av_scanner::fuzzing::store_headers(input));
