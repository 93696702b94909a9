//! Mutations of tar archives whose headers keep a right checksum: of others nothing is read but that it is wrong.

const BLOCK: usize = 512;

/// Changes bytes, and repairs the checksums of the headers after that most of the time. Yields the new length.
pub fn mutate_tar(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> usize {
    let size = libfuzzer_sys::fuzzer_mutate(data, size, max_size);
    if seed.is_multiple_of(8) {
        return size;
    }
    let mut at = 0;
    while let Some(header) = data[..size].get_mut(at..at + BLOCK) {
        at += BLOCK;
        if header.iter().all(|byte| *byte == 0) {
            continue;
        }
        let sum: u64 = header[..148].iter().chain(&header[156..]).map(|byte| u64::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{:06o}\0 ", sum + 8 * u64::from(b' ')).as_bytes());
        let told = std::str::from_utf8(&header[124..135]).ok().and_then(|text| usize::from_str_radix(text, 8).ok());
        at += told.unwrap_or(0).min(data.len()).next_multiple_of(BLOCK);
    }
    size
}
