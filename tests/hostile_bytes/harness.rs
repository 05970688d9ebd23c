//! Runs a decoder over its seeds and holds each result against the promises.

use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};

use bytes::Bytes;
use rand_chacha::ChaCha8Rng;

use crate::{allocator, input};

/// Inputs for each decoder.
const INPUTS: u64 = 120_000;

/// An error is one line for a person.
const MAX_ERROR_CHARS: usize = 400;

/// What an input beyond the decoder's length limit may cost: its error.
const OVER_LIMIT_BYTES: usize = 512;

/// A decoder under test.
pub struct Target<T, E> {
    /// Valid inputs to start from.
    pub samples: Vec<Vec<u8>>,
    /// Writes inputs of a form of their own.
    pub structured: fn(&mut ChaCha8Rng) -> Vec<u8>,
    pub decode: fn(&Bytes) -> Result<T, E>,
    pub encode: fn(&T) -> Vec<u8>,
    /// The encoding must be the input itself, not only the same value.
    pub canonical: bool,
    /// The longest input that is looked at.
    pub most: usize,
    /// Peak memory of one decoding: this many bytes…
    pub fixed: usize,
    /// …and this many for each byte of input.
    pub per_byte: usize,
}

impl<T: PartialEq + Debug, E: std::error::Error> Target<T, E> {
    /// Runs all seeds, or the one that the environment names.
    pub fn run(&self) {
        let number = |name| {
            let text = std::env::var(name).ok()?;
            Some(text.parse::<u64>().expect("a number"))
        };
        if let Some(seed) = number("SNAPSWARM_HOSTILE_SEED") {
            self.run_seed(seed);
            return;
        }
        let inputs = number("SNAPSWARM_HOSTILE_INPUTS").unwrap_or(INPUTS);
        let accepted = (0..inputs).filter(|seed| self.run_seed(*seed)).count() as u64;
        // A run that only refuses, or only accepts, would prove little.
        assert!(
            (inputs / 100..inputs * 9 / 10).contains(&accepted),
            "{accepted} of {inputs} inputs were taken"
        );
    }

    fn run_seed(&self, seed: u64) -> bool {
        let input = Bytes::from(input::generate(seed, &self.samples, self.structured));
        match catch_unwind(AssertUnwindSafe(|| self.check(&input))) {
            Ok(accepted) => accepted,
            Err(_) => panic!(
                "SNAPSWARM_HOSTILE_SEED={seed} fails, {} bytes: {}",
                input.len(),
                hex::encode(&input[..input.len().min(1024)])
            ),
        }
    }

    /// Holds one input against all promises; whether it was accepted.
    pub fn check(&self, input: &Bytes) -> bool {
        let (result, peak) = allocator::peak(|| (self.decode)(input));
        let bound = if input.len() > self.most {
            assert!(result.is_err(), "an input above the limit was taken");
            OVER_LIMIT_BYTES
        } else {
            self.fixed + self.per_byte * input.len()
        };
        assert!(
            peak <= bound,
            "{peak} bytes of memory for {} bytes of input; {bound} are the bound",
            input.len()
        );
        match result {
            Ok(value) => {
                let encoded = Bytes::from((self.encode)(&value));
                if self.canonical {
                    assert_eq!(&encoded, input, "two encodings of one value");
                }
                assert_eq!((self.decode)(&encoded).expect("what we encode"), value);
                true
            }
            Err(error) => {
                let text = error.to_string();
                assert!(!text.is_empty() && text.chars().count() <= MAX_ERROR_CHARS);
                assert!(!text.chars().any(char::is_control), "{text:?}");
                false
            }
        }
    }
}
