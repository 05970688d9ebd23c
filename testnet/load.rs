//! What fills the application's state: transactions of CometBFT's e2e application, or
//! contract code in the genesis of a chain of the SDK.

use futures::{TryStreamExt, stream};
use prost::encoding::encode_varint;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use crate::comet::Node;
use crate::network::{App, Load, Network};
use crate::rpc::Question;

/// Transactions under way at once: enough to keep all validators busy, few
/// enough that none waits for the RPC's time limit.
const UNDER_WAY: usize = 4;

/// How a WebAssembly module of version 1 begins.
const WASM_BEGINNING: &[u8] = b"\0asm\x01\0\0\0";

/// Bytes that are drawn from the seed, so that no two chunks are alike.
fn drawn(load: &Load, index: u64, length: usize) -> Vec<u8> {
    let mut random = ChaCha8Rng::seed_from_u64(load.seed);
    random.set_stream(index);
    let mut bytes = vec![0; length];
    random.fill_bytes(&mut bytes);
    bytes
}

/// Key and value of transaction `index`. Values are hexadecimal digits.
fn transaction(load: &Load, index: u64) -> (String, String) {
    let length = (load.transaction_bytes as usize).div_ceil(2);
    let mut value = hex::encode(drawn(load, index, length));
    value.truncate(load.transaction_bytes as usize);
    (format!("key{index:06}"), value)
}

/// Contract code `index`: a WebAssembly module of nothing but a custom section, which
/// means nothing to who runs it and does not get smaller when it is compressed.
fn code(load: &Load, index: u64) -> Vec<u8> {
    let mut section = b"\x04load".to_vec();
    section.extend(drawn(load, index, load.transaction_bytes as usize));
    let mut code = WASM_BEGINNING.to_vec();
    code.push(0);
    encode_varint(section.len() as u64, &mut code);
    code.extend(section);
    code
}

/// All contract code of a genesis, in the order of its ids.
pub fn codes(load: &Load) -> impl Iterator<Item = Vec<u8>> {
    (0..load.transactions(App::Sdk)).map(|index| code(load, index))
}

/// The id of contract code `index`: they are counted from 1.
pub fn code_id(index: u64) -> u64 {
    index + 1
}

/// Writes all transactions, each to one of the validators in turn; they are
/// in the mempools afterwards, not yet all in blocks.
pub async fn write(load: &Load, app: App, validators: &[Node]) -> anyhow::Result<()> {
    stream::iter(
        (0..load.transactions(app))
            .zip(validators.iter().cycle())
            .map(Ok),
    )
    .try_for_each_concurrent(UNDER_WAY, |(index, validator)| async move {
        let (key, value) = transaction(load, index);
        let tx = match app {
            App::Xian => xian_transaction(&key, &value),
            _ => format!("\"{key}={value}\""),
        };
        validator.rpc.broadcast(&key, &tx).await
    })
    .await
}

/// The same for an application that keeps its state as Xian does, in hex: JSON would have
/// to be escaped. Each has a sender of its own, because nonces have an order.
fn xian_transaction(key: &str, value: &str) -> String {
    let tx = serde_json::json!({
        "sender": key,
        "nonce": 0,
        "writes": [{ "key": xian_key(key), "value": value }],
    });
    format!("0x{}", hex::encode(tx.to_string()))
}

fn xian_key(key: &str) -> String {
    format!("con_load.values:{key}")
}

/// What all applications must answer alike in the end: it is about the first and the
/// last that was written.
pub fn questions(network: &Network) -> [Question; 2] {
    let load = &network.load;
    [0, load.transactions(network.app) - 1].map(|index| match network.app {
        App::Sdk => code_question(index),
        App::Xian => Question {
            path: format!("/get/{}", xian_key(&transaction(load, index).0)),
            data: Vec::new(),
        },
        App::InProcess | App::Socket | App::Adapter => Question {
            path: String::new(),
            data: transaction(load, index).0.into_bytes(),
        },
    })
}

/// Contract code lies in files beside the application's database: it is there only if
/// the restore took all of the snapshot.
fn code_question(index: u64) -> Question {
    // A message of one field, the id: number 1, a varint.
    let mut data = vec![0x08];
    encode_varint(code_id(index), &mut data);
    Question {
        path: "/cosmwasm.wasm.v1.Query/Code".to_owned(),
        data,
    }
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
        let all: u64 = (0..LOAD.transactions(App::InProcess))
            .map(|index| transaction(&LOAD, index).1.len() as u64)
            .sum();
        assert!(all >= 3_000_000, "{all}");
        assert!(all < 3_000_000 + u64::from(LOAD.transaction_bytes));
    }

    #[test]
    fn all_contract_code_together_fills_chunks_ten_times_as_large() {
        let all: usize = codes(&LOAD).map(|code| code.len()).sum();
        assert!(all >= 30_000_000, "{all}");
    }

    #[test]
    fn the_same_seed_and_index_give_the_same_transaction() {
        assert_eq!(transaction(&LOAD, 1), transaction(&LOAD, 1));
        assert_ne!(transaction(&LOAD, 1).1, transaction(&LOAD, 2).1);
        let other = Load { seed: 8, ..LOAD };
        assert_ne!(transaction(&LOAD, 1).1, transaction(&other, 1).1);
    }

    #[test]
    fn contract_code_is_a_module_with_one_section_that_reaches_to_its_end() {
        let load = Load {
            transaction_bytes: 300,
            ..LOAD
        };
        let code = code(&load, 0);
        let section = code.strip_prefix(b"\0asm\x01\0\0\0\0").unwrap();
        // 305 as a varint.
        let section = section.strip_prefix(&[0xb1, 0x02]).unwrap();
        assert_eq!(section.len(), 305);
    }
}
