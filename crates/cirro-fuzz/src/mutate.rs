//! Makes new inputs of old ones.

/// Values at the edges of what counts and sizes are.
const EDGES: [u64; 12] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff, 1 << 33, u64::MAX >> 1, u64::MAX];
/// Text that parsers look for.
const WORDS: [&str; 28] = [
    "../",
    "/",
    "\0",
    "\n",
    "\\\n",
    ":",
    "@sha256:",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "null",
    "-1",
    "1e999",
    "99999999999999999999",
    "${",
    "$",
    "*",
    "**",
    "!",
    "#",
    "<<EOF\n",
    "%",
    "\u{feff}",
    "é",
    ".wh.",
    ".wh..wh..opq",
];
/// Inputs do not grow beyond this.
const MOST: usize = 64 << 10;

/// A source of mutations that a seed decides.
#[derive(Debug)]
pub struct Mutator(u64);

impl Mutator {
    /// Begins the row of mutations that `seed` stands for.
    pub fn new(seed: u64) -> Self {
        Self(seed ^ 0x9e37_79b9_7f4a_7c15)
    }

    /// Returns a number below `bound`, which is not 0 (splitmix64).
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut value = self.0;
        value = (value ^ value >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        value = (value ^ value >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((value ^ value >> 31) % bound as u64) as usize
    }

    /// Makes an input of one of `seeds`, which are not empty, and maybe parts of another one.
    pub fn next(&mut self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[self.below(seeds.len())].clone();
        for _ in 0..=self.below(6) {
            self.change(&mut bytes, seeds);
        }
        bytes.truncate(MOST);
        bytes
    }

    fn change(&mut self, bytes: &mut Vec<u8>, seeds: &[Vec<u8>]) {
        let at = self.below(bytes.len() + 1);
        let length = self.below(64).min(bytes.len() - at);
        match self.below(9) {
            0 if at < bytes.len() => bytes[at] ^= 1 << self.below(8),
            1 if at < bytes.len() => bytes[at] = self.below(256) as u8,
            2 => drop(bytes.drain(at..at + length)),
            3 => bytes.truncate(at),
            4 => {
                let copy = bytes[at..at + length].to_vec();
                let to = self.below(bytes.len() + 1);
                bytes.splice(to..to, copy);
            }
            5 => {
                let word = WORDS[self.below(WORDS.len())];
                bytes.splice(at..at, word.bytes());
            }
            6 => {
                let value = EDGES[self.below(EDGES.len())];
                let size = [1, 2, 4, 8][self.below(4)].min(bytes.len() - at);
                let value = if self.below(2) == 0 {
                    value.to_le_bytes()
                } else {
                    value.rotate_right(8 * size as u32 % 64).to_be_bytes()
                };
                bytes[at..at + size].copy_from_slice(&value[..size]);
            }
            7 => {
                let other = &seeds[self.below(seeds.len())];
                let from = self.below(other.len() + 1);
                let part = &other[from..(from + self.below(1024)).min(other.len())];
                bytes.splice(at..at, part.iter().copied());
            }
            _ => {
                // A block of a tar.
                let start = at / 512 * 512;
                let end = (start + 512).min(bytes.len());
                let block = bytes[start..end].to_vec();
                bytes.splice(start..start, block);
            }
        }
    }
}
