//! Damaged copies of a file, for tests of whatever reads files: reproducible from a seed and an index.

/// SplitMix64: small, and the same everywhere.
#[derive(Debug, Clone)]
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        (self.next() % n.max(1) as u64) as usize
    }
}

/// Values at which arithmetic on lengths, counts and offsets tends to break; small deltas are added to them.
const EDGES: [u64; 14] = [
    0,
    4,
    8,
    32,
    0xff,
    0xffff,
    0x10_0000,
    0x7fff_ffff,
    0xffff_ffff,
    1 << 40,
    u64::MAX / 32,
    u64::MAX / 8,
    i64::MAX as u64,
    u64::MAX,
];

/// The copy number `index` of `original`, damaged in one to three places. Half of the places are in the first `head`
/// bytes, where the structure is.
pub fn mutate(original: &[u8], head: usize, seed: u64, index: u64) -> Vec<u8> {
    let mut rng = Rng(seed ^ index.wrapping_mul(0x2545_f491_4f6c_dd1d));
    let mut bytes = original.to_vec();
    for _ in 0..1 + rng.below(3) {
        damage(&mut bytes, head, &mut rng);
    }
    bytes
}

fn damage(bytes: &mut Vec<u8>, head: usize, rng: &mut Rng) {
    let zone = if rng.below(2) == 0 { head.min(bytes.len()) } else { bytes.len() };
    let at = rng.below(zone);
    let edge = EDGES[rng.below(EDGES.len())].wrapping_add(rng.below(5) as u64).wrapping_sub(2);
    match rng.below(8) {
        0 | 1 => overwrite(bytes, at, &[1 << rng.below(8)], |old, bit| old ^ bit),
        2 => overwrite(bytes, at, &[rng.next() as u8], |_, new| new),
        3 => overwrite(bytes, at, &(edge as u32).to_le_bytes(), |_, new| new),
        4 => overwrite(bytes, at, &edge.to_le_bytes(), |_, new| new),
        5 => bytes.truncate(at),
        6 => {
            // A piece of the file once more, somewhere else: duplicates keys, names and whole entries.
            let from = rng.below(zone);
            let piece = bytes[from..bytes.len().min(from + rng.below(64))].to_vec();
            bytes.splice(at..at, piece);
        }
        _ => {
            let end = bytes.len().min(at + rng.below(64));
            bytes.drain(at.min(end)..end);
        }
    }
}

fn overwrite(bytes: &mut [u8], at: usize, with: &[u8], join: impl Fn(u8, u8) -> u8) {
    for (old, new) in bytes.iter_mut().skip(at).zip(with) {
        *old = join(*old, *new);
    }
}
