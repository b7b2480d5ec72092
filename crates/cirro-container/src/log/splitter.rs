//! Cuts a stream into log lines, pieces of at most 16 KiB, as docker does.

/// Docker's longest piece.
const MAX_PIECE: usize = 16 << 10;

/// What is left of the last read: the beginning of a line.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    partial: Vec<u8>,
}

impl Splitter {
    /// Goes on where another supervisor stopped.
    pub(crate) fn resume(partial: Vec<u8>) -> Self {
        Self { partial }
    }

    /// The beginning of a line whose end has not come yet.
    pub(crate) fn partial(&self) -> &[u8] {
        &self.partial
    }

    /// Takes bytes and gives whole lines, and pieces of those that are too long.
    pub(crate) fn push(&mut self, mut bytes: &[u8], mut line: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            let room = MAX_PIECE - self.partial.len();
            let window = &bytes[..bytes.len().min(room)];
            let (cut, complete) = match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => (end + 1, true),
                None => (window.len(), window.len() == room),
            };
            let (piece, rest) = bytes.split_at(cut);
            bytes = rest;
            if !complete {
                self.partial.extend_from_slice(piece);
            } else if self.partial.is_empty() {
                line(piece);
            } else {
                self.partial.extend_from_slice(piece);
                line(&self.partial);
                self.partial = Vec::new();
            }
        }
    }

    /// The stream has ended: gives what is left.
    pub(crate) fn finish(&mut self, mut line: impl FnMut(&[u8])) {
        if !self.partial.is_empty() {
            line(&self.partial);
            self.partial = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(reads: &[&[u8]]) -> Vec<Vec<u8>> {
        let (mut splitter, mut lines) = (Splitter::default(), Vec::new());
        for read in reads {
            splitter.push(read, |line| lines.push(line.to_vec()));
        }
        splitter.finish(|line| lines.push(line.to_vec()));
        lines
    }

    #[test]
    fn lines_are_put_together_over_reads() {
        assert_eq!(
            cut(&[b"one\ntw", b"o\n", b"three"]),
            [b"one\n".to_vec(), b"two\n".to_vec(), b"three".to_vec()]
        );
    }

    #[test]
    fn long_lines_come_in_pieces_and_lose_nothing() {
        let long = [vec![b'x'; 40_000], b"\n".to_vec()].concat();
        let lines = cut(&[&long[..100], &long[100..]]);
        assert_eq!(lines.iter().map(Vec::len).collect::<Vec<_>>(), [16_384, 16_384, 40_001 - 2 * 16_384]);
        assert_eq!(lines.concat(), long);
    }
}
