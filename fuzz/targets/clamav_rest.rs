//! An answer of clamav-rest.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| bucket_av_scanner::fuzzing::clamav_rest(input));
