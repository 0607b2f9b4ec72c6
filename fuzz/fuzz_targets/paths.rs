#![no_main]
alknet_fuzz_coverage::fuzz!("paths");
