#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| chiton_fuzz::run_named("image_layer", data));
