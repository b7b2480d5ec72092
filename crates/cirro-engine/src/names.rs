//! Ids and names of containers and volumes.

use std::fs::File;
use std::io::Read;

use crate::error::{EngineError, io};

const ADJECTIVES: &str = "agile amber ancient bold brave breezy bright brisk calm candid careful cheerful clever \
    cosy curious daring deft dreamy eager early earnest easy fair faithful fancy festive fond frank gentle gleeful \
    golden graceful happy hardy hearty helpful honest hopeful humble jolly jovial keen kind lively loving lucid \
    lucky mellow merry modest nimble noble patient peaceful plucky polite proud quick quiet ready serene sharp \
    silent sincere sleek smart snug sober steady sunny swift tender thrifty tidy trusting upbeat vigilant warm \
    wise witty zealous";

const SURNAMES: &str = "abel archimedes banach bassi bell bernoulli bohr boole born brahe cannon cantor carson \
    cauchy cerf chandra clarke cori curie darwin descartes dijkstra dirac easley edison einstein erdos euclid \
    euler faraday fermat fermi feynman fourier franklin galileo galois gates gauss germain goldberg goodall \
    hamilton hawking heisenberg hermann herschel hertz hilbert hodgkin hopper hypatia jackson johnson kalam \
    kepler khayyam kilby knuth kovalevskaya lagrange lamarr lamport leakey leibniz liskov lovelace lumiere \
    maxwell mayer mccarthy meitner mendel mirzakhani moore morse nash newton nobel noether pascal pasteur \
    perlman planck poincare ptolemy raman ramanujan ride ritchie rubin shannon snyder stonebraker tesla \
    thompson torvalds turing volta wiles wilson wing wozniak wright yalow";

/// Returns random bytes of the kernel.
pub(crate) fn random<const N: usize>() -> Result<[u8; N], EngineError> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(io("read /dev/urandom"))?;
    Ok(bytes)
}

/// Makes an id of 64 hexadecimal digits whose short form is not a number (docker's clients would read it as one).
pub(crate) fn new_id() -> Result<String, EngineError> {
    loop {
        let id = hex::encode(random::<32>()?);
        if id[..12].bytes().any(|digit| digit.is_ascii_alphabetic()) {
            return Ok(id);
        }
    }
}

/// Makes up a name that is not taken.
pub(crate) fn new_name(taken: impl Fn(&str) -> bool) -> Result<String, EngineError> {
    for attempt in 0..12 {
        let bytes = random::<4>()?;
        let mut name = name_from(bytes);
        if attempt > 5 {
            name.push_str(&(bytes[0] % 10).to_string());
        }
        if !taken(&name) {
            return Ok(name);
        }
    }
    new_id()
}

fn name_from([a, b, c, d]: [u8; 4]) -> String {
    let pick = |list: &'static str, number: u16| {
        let count = list.split_whitespace().count();
        list.split_whitespace().nth(usize::from(number) % count).expect("the lists are not empty")
    };
    format!("{}_{}", pick(ADJECTIVES, u16::from_be_bytes([a, b])), pick(SURNAMES, u16::from_be_bytes([c, d])))
}

/// Tells whether a container or volume may have this name: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub(crate) fn is_valid(name: &str) -> bool {
    (2..=255).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_64_digits_and_differ() {
        let (one, two) = (new_id().unwrap(), new_id().unwrap());
        assert_eq!(one.len(), 64);
        assert!(one.bytes().all(|b| b.is_ascii_hexdigit()));
        assert_ne!(one, two);
    }

    #[test]
    fn made_up_names_are_valid_and_free() {
        let first = new_name(|_| false).unwrap();
        assert!(is_valid(&first) && first.contains('_'), "{first}");
        let id = new_name(|name| name.contains('_')).unwrap();
        assert_eq!(id.len(), 64, "when every name is taken the name is an id");
    }

    #[test]
    fn names_that_could_be_paths_are_refused() {
        for name in ["", "a", "-a", "../x", "a/b", ".a", "a b", "é1"] {
            assert!(!is_valid(name), "{name}");
        }
        for name in ["ab", "web-1", "a.b_c", "9z"] {
            assert!(is_valid(name), "{name}");
        }
    }
}
