//! A file of rules.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| bucket_av_scanner::fuzzing::rules(input));
