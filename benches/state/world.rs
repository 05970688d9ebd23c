//! States that look like Xian's: balances and allowances by address, nonces, pools,
//! contract sources and their compiled form, in the text that the chain writes.

use std::fmt::Write as _;

use bytes::Bytes;
use rand::{Rng, RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use snapswarm::state::{Key, Place, Record, Scope, Stamp, StampText};

/// Contracts with a source, two thirds of them tokens.
const CONTRACTS: usize = 300;
/// Blocks that wrote what stands in the state.
const BLOCKS: u64 = 400_000;
const FIRST_BLOCK_NS: u64 = 1_722_470_400_000_000_000;
const BLOCK_NS: u64 = 2_100_000_000;

/// Makes a state and changes it, the same from the same seed.
pub struct World {
    rng: ChaCha8Rng,
    block_times: Vec<u64>,
    pub records: Vec<Record>,
}

impl World {
    /// A state of about so many records.
    pub fn new(records: usize, seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let late = |rng: &mut ChaCha8Rng| rng.random_range(0..300_000_000);
        let block_times = (0..BLOCKS)
            .map(|block| FIRST_BLOCK_NS + block * BLOCK_NS + late(&mut rng))
            .collect();
        let mut this = Self {
            rng,
            block_times,
            records: Vec::new(),
        };
        let addresses: Vec<String> = (0..records * 3 / 10).map(|_| this.address()).collect();
        this.currency(&addresses);
        this.nonces(&addresses);
        let pools = records / 20;
        this.pools(pools);
        for number in 0..CONTRACTS {
            this.contract(number);
        }
        let tokens = CONTRACTS * 2 / 3;
        let left = records.saturating_sub(this.records.len());
        for number in 0..tokens {
            // A few tokens have most of the holders.
            let holders = left / (2 * (number + 1)).min(tokens / 2);
            this.token(number, &addresses, holders.min(addresses.len() / 2));
        }
        this.records.sort_by(|a, b| a.place().cmp(b.place()));
        this.records.dedup_by(|a, b| a.place() == b.place());
        this
    }

    /// Writes new values over a part of the records, in a block of its own.
    pub fn rewrite(&mut self, is_chosen: impl Fn(usize, &mut ChaCha8Rng) -> bool) -> usize {
        let now = FIRST_BLOCK_NS + BLOCKS * BLOCK_NS + self.rng.random_range(0..1 << 40);
        let mut rewritten = 0;
        for at in 0..self.records.len() {
            if !is_chosen(at, &mut self.rng) {
                continue;
            }
            let amount = self.amount();
            let place = self.records[at].place().clone();
            self.records[at] = record(place, amount, text_stamp(now));
            rewritten += 1;
        }
        rewritten
    }

    /// Adds accounts with a balance whose addresses begin with this digit.
    pub fn add_accounts(&mut self, count: usize, digit: char) {
        for _ in 0..count {
            let address = format!("{digit}{}", &self.address()[1..]);
            self.put("contract_state/currency", &["balances", &address], None);
        }
        self.records.sort_by(|a, b| a.place().cmp(b.place()));
        self.records.dedup_by(|a, b| a.place() == b.place());
    }

    fn put(&mut self, scope: &str, path: &[&str], value: Option<String>) {
        let value = value.unwrap_or_else(|| self.amount());
        let place = Place {
            scope: Scope::new(scope).unwrap(),
            key: Key::new(path.join("\0").into()).unwrap(),
        };
        let stamp = if self.rng.random_ratio(1, 30) {
            Stamp::Int(-1)
        } else {
            let block = self.rng.random_range(0..self.block_times.len());
            text_stamp(self.block_times[block])
        };
        self.records.push(record(place, value, stamp));
    }

    fn currency(&mut self, addresses: &[String]) {
        let scope = "contract_state/currency";
        for address in addresses {
            self.put(scope, &["balances", address], None);
            if self.rng.random_ratio(1, 15) {
                self.put(scope, &["balances", address, "con_dex"], None);
            }
        }
    }

    fn nonces(&mut self, addresses: &[String]) {
        for address in addresses {
            let nonce = 10u32.pow(self.rng.random_range(0..4));
            let nonce = self.rng.random_range(0..nonce).to_string();
            self.put("run_state/__n", &[address], Some(nonce));
        }
    }

    fn pools(&mut self, count: usize) {
        for pool in 0..count {
            let pool = pool.to_string();
            for field in ["reserve0", "reserve1", "kLast"] {
                self.put("contract_state/con_pairs", &["pairs", &pool, field], None);
            }
        }
    }

    fn contract(&mut self, number: usize) {
        let scope = format!("contract_state/con_{}", name(number));
        let lines = self.rng.random_range(30..400);
        let code = self.code(lines);
        let compiled = self.compiled(&code);
        let owner = format!("\"{}\"", self.address());
        let submitted = "{\"__time__\":[2025,3,14,15,9,26,0]}".to_owned();
        let quoted = format!("\"{}\"", code.replace('"', "\\\"").replace('\n', "\\n"));
        self.put(&scope, &["__code__"], Some(quoted));
        self.put(&scope, &["__compiled__"], Some(compiled));
        self.put(&scope, &["__developer__"], Some(owner.clone()));
        self.put(&scope, &["__owner__"], Some("null".to_owned()));
        self.put(&scope, &["__submitted__"], Some(submitted));
        self.put(&scope, &["metadata", "operator"], Some(owner));
    }

    fn token(&mut self, number: usize, addresses: &[String], holders: usize) {
        let scope = format!("contract_state/con_{}", name(number));
        for _ in 0..holders {
            let at = self.rng.random_range(0..addresses.len());
            self.put(&scope, &["balances", &addresses[at]], None);
        }
    }

    fn address(&mut self) -> String {
        hex::encode(self.rng.random::<[u8; 32]>())
    }

    fn amount(&mut self) -> String {
        let digits = self.rng.random_range(1..8);
        let whole = self.rng.random_range(0..10u64.pow(digits));
        if self.rng.random_ratio(2, 5) {
            return whole.to_string();
        }
        let digits = self.rng.random_range(1..19);
        let part = self.rng.random_range(0..10u64.pow(digits));
        format!("{{\"__fixed__\":\"{whole}.{part}\"}}")
    }

    /// Text of the form of a contract's source.
    fn code(&mut self, lines: usize) -> String {
        const WORDS: &[&str] = &[
            "balances",
            "amount",
            "ctx.caller",
            "to",
            "sender",
            "approve",
            "metadata",
            "Hash",
            "default_value",
            "transfer",
            "allowance",
            "assert",
            "return",
            "reserve",
            "price",
            "deadline",
            "token_interface",
            "importlib",
            "owner",
            "now",
            "liquidity",
            "swap",
            "random",
            "total_supply",
            "stake",
            "reward",
            "epoch",
            "vote",
            "proposal",
        ];
        let mut text = String::new();
        for line in 0..lines {
            if line % 12 == 0 {
                let (name, argument) = (self.word(WORDS), self.word(WORDS));
                writeln!(text, "\n@export\ndef {name}_{line}({argument}: float):").unwrap();
                continue;
            }
            let (a, b, c) = (self.word(WORDS), self.word(WORDS), self.word(WORDS));
            match self.rng.random_range(0..4) {
                0 => writeln!(text, "    assert {a} > 0, 'Cannot {b} negative {c}!'"),
                1 => writeln!(
                    text,
                    "    {a}[{b}, {c}] += {}",
                    self.rng.random_range(0..999)
                ),
                2 => writeln!(text, "    {a} = {b}({c}={a})"),
                _ => writeln!(text, "    if {a}[{b}] is None:\n        return {c}"),
            }
            .unwrap();
        }
        text
    }

    fn word<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words[self.rng.random_range(0..words.len())]
    }

    /// Hexadecimal digits of bytes that repeat about as much as marshalled code.
    fn compiled(&mut self, code: &str) -> String {
        let mut bytes = Vec::new();
        for word in code.split_whitespace() {
            bytes.extend_from_slice(word.as_bytes());
            let mut opcodes = [0; 6];
            self.rng.fill_bytes(&mut opcodes);
            bytes.extend(opcodes.iter().flat_map(|opcode| [opcode % 30, 0, 0x64]));
        }
        format!("{{\"__bytes__\":\"{}\"}}", hex::encode(bytes))
    }
}

/// Names that do not sort as their numbers do.
fn name(number: usize) -> String {
    format!("{:x}_{number}", (number * 7919) % 256)
}

fn record(place: Place, value: String, stamp: Stamp) -> Record {
    Record::new(place, Some(Bytes::from(value)), stamp).unwrap()
}

fn text_stamp(ns: u64) -> Stamp {
    Stamp::Text(StampText::new(&ns.to_string()).unwrap())
}
