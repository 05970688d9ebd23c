//! Transactions that fill the application's state.

use futures::{TryStreamExt, stream};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::comet::Node;
use crate::network::Load;

/// Transactions under way at once: enough to keep all validators busy, few
/// enough that none waits for the RPC's time limit.
const UNDER_WAY: usize = 4;

/// Key and value of transaction `index`. Values are hexadecimal digits, drawn
/// from the seed, so that no two chunks are alike.
fn transaction(load: &Load, index: u64) -> (String, String) {
    let mut random = ChaCha8Rng::seed_from_u64(load.seed);
    random.set_stream(index);
    let mut bytes = vec![0; (load.transaction_bytes as usize).div_ceil(2)];
    random.fill_bytes(&mut bytes);
    let mut value = hex::encode(bytes);
    value.truncate(load.transaction_bytes as usize);
    (format!("key{index:06}"), value)
}

/// Writes all transactions, each to one of the validators in turn; they are
/// in the mempools afterwards, not yet all in blocks.
pub async fn write(load: &Load, validators: &[Node]) -> anyhow::Result<()> {
    stream::iter(
        (0..load.transactions())
            .zip(validators.iter().cycle())
            .map(Ok),
    )
    .try_for_each_concurrent(UNDER_WAY, |(index, validator)| async move {
        let (key, value) = transaction(load, index);
        validator.rpc.broadcast(&key, &value).await
    })
    .await
}

/// Keys that are looked up in the end: the first and the last written.
pub fn keys_to_compare(load: &Load) -> [String; 2] {
    [0, load.transactions() - 1].map(|index| transaction(load, index).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOAD: Load = Load {
        chunks: 3,
        transaction_bytes: 250_001,
        seed: 7,
    };

    #[test]
    fn all_values_together_fill_all_chunks_but_the_last() {
        let all: u64 = (0..LOAD.transactions())
            .map(|index| transaction(&LOAD, index).1.len() as u64)
            .sum();
        assert!(all >= 3_000_000, "{all}");
        assert!(all < 3_000_000 + u64::from(LOAD.transaction_bytes));
    }

    #[test]
    fn the_same_seed_and_index_give_the_same_transaction() {
        assert_eq!(transaction(&LOAD, 1), transaction(&LOAD, 1));
        assert_ne!(transaction(&LOAD, 1).1, transaction(&LOAD, 2).1);
        let other = Load { seed: 8, ..LOAD };
        assert_ne!(transaction(&LOAD, 1).1, transaction(&other, 1).1);
    }
}
