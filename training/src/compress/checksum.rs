//! A number that tells data apart.

/// FNV-1a over words of four bytes.
pub(super) struct Checksum(u64);

impl Checksum {
    pub fn new() -> Self {
        Checksum(0xcbf2_9ce4_8422_2325)
    }

    pub fn word(&mut self, word: u32) {
        self.0 = (self.0 ^ u64::from(word)).wrapping_mul(0x100_0000_01b3);
    }

    /// Takes whole words, and zeros behind a last one that is not whole.
    pub fn bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks();
        for &word in words {
            self.word(u32::from_le_bytes(word));
        }
        if !rest.is_empty() {
            let mut word = [0; 4];
            for (to, &from) in word.iter_mut().zip(rest) {
                *to = from;
            }
            self.word(u32::from_le_bytes(word));
        }
    }
}

impl std::fmt::Display for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}
