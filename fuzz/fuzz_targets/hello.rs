#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| machnet_core::fuzz::run("hello", bytes));
