//! The body of a notification.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| bucket_av_scanner::fuzzing::event(input));
