//! The head and the body of a webhook.
#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| bucket_av_scanner::fuzzing::webhook(input));
