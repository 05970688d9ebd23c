//! Blocks of real chains, as their RPC told them, and what somebody makes of them.
//!
//! `tests/golden/light` has one file for each version of CometBFT. In each chain two
//! validators begin; two more come a few blocks later, and a few blocks after that the
//! first two go. So the last blocks have no signature of those who signed the first. One
//! more chain has a single validator, with a key of another kind.

use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use ed25519_consensus::SigningKey;
use serde_json::{Value, json};
use snapswarm::comet::light::{Rules, Trusted};
use snapswarm::comet::rpc::Rpc;
use snapswarm::snapshot::Digest;
use tendermint::block::signed_header::SignedHeader;
use tendermint::validator::{Info, Set};
use tendermint::vote::{Type, ValidatorIndex, Vote};
use tendermint::{PublicKey, Signature};

use crate::fake_rpc;

pub const CHAIN: &str = "light-1";
/// With all but the recorded clock.
pub const YEARS: u64 = 100 * 365 * 86_400;

/// What an RPC answers.
#[derive(Clone)]
pub struct Recorded {
    answers: Value,
    /// Validators that it gives at once.
    pub page: usize,
}

/// An RPC that answers so.
pub struct Endpoint {
    pub rpc: Rpc,
    asked: Arc<Mutex<Vec<(String, Value)>>>,
}

impl Recorded {
    pub fn v0_38() -> Self {
        Self::of(include_str!("../golden/light/comet-0.38.json"))
    }

    pub fn v1_0() -> Self {
        Self::of(include_str!("../golden/light/comet-1.0.json"))
    }

    pub fn secp256k1() -> Self {
        Self::of(include_str!("../golden/light/comet-1.0-secp256k1.json"))
    }

    fn of(text: &str) -> Self {
        Self {
            answers: serde_json::from_str(text).unwrap(),
            page: 100,
        }
    }

    /// The newest block.
    pub fn tip(&self) -> u64 {
        let commits = self.answers["commit"].as_object().unwrap();
        let heights = commits.keys().map(|height| height.parse().unwrap());
        heights.max().unwrap()
    }

    /// What `/commit` tells of a block: `{"header", "commit"}`.
    pub fn signed(&mut self, height: u64) -> &mut Value {
        &mut self.answers["commit"][height.to_string()]["signed_header"]
    }

    /// What `/validators` tells of a block, all at once.
    pub fn validators(&mut self, height: u64) -> &mut Value {
        &mut self.answers["validators"][height.to_string()]["validators"]
    }

    pub fn header(&self, height: u64) -> SignedHeader {
        let signed = self.clone().signed(height).take();
        serde_json::from_value(signed).unwrap()
    }

    /// The true hash of a header, as it is told.
    pub fn hash(&self, height: u64) -> Digest {
        let hash = self.header(height).header.hash();
        Digest::from_slice(hash.as_bytes()).unwrap()
    }

    pub fn trusted(&self, height: u64) -> Trusted {
        let hash = self.hash(height);
        Trusted { height, hash }
    }

    pub fn time(&self, height: u64) -> SystemTime {
        let nanos = self.header(height).header.time.unix_timestamp_nanos();
        SystemTime::UNIX_EPOCH + std::time::Duration::from_nanos(nanos.try_into().unwrap())
    }

    /// Gives a changed header the commit that names it, with the old signatures.
    pub fn name_anew(&mut self, height: u64) {
        let hash = hex::encode_upper(self.hash(height).as_bytes());
        self.signed(height)["commit"]["block_id"]["hash"] = hash.into();
    }

    /// Gives a block, and the ones around it, to a validator that nobody knows.
    pub fn usurp(&mut self, height: u64, app_hash: &str) {
        let key = SigningKey::from([7; 32]);
        let public = key.verification_key().to_bytes();
        let info = Info::new(PublicKey::from_raw_ed25519(&public).unwrap(), 10_u32.into());
        let set = Set::without_proposer(vec![info.clone()]).hash().to_string();
        let header = &mut self.signed(height)["header"];
        header["validators_hash"] = set.clone().into();
        header["next_validators_hash"] = set.into();
        header["app_hash"] = app_hash.into();
        self.name_anew(height);
        let signed = self.header(height);
        let vote = Vote {
            vote_type: Type::Precommit,
            height: signed.commit.height,
            round: signed.commit.round,
            block_id: Some(signed.commit.block_id),
            timestamp: Some(signed.header.time),
            validator_address: info.address,
            validator_index: ValidatorIndex::try_from(0_u32).unwrap(),
            signature: None,
            extension: Vec::new(),
            extension_signature: None,
        };
        let signature = key.sign(&vote.into_signable_vec(signed.header.chain_id.clone()));
        let signature = Signature::from(signature).into_bytes();
        use base64::prelude::{BASE64_STANDARD, Engine as _};
        self.signed(height)["commit"]["signatures"] = json!([{
            "block_id_flag": 2,
            "validator_address": info.address.to_string(),
            "timestamp": signed.header.time.to_rfc3339(),
            "signature": BASE64_STANDARD.encode(signature),
        }]);
        *self.validators(height) = json!([{
            "address": info.address.to_string(),
            "pub_key": {
                "type": "tendermint/PubKeyEd25519",
                "value": BASE64_STANDARD.encode(public),
            },
            "voting_power": "10",
            "proposer_priority": "0",
        }]);
    }

    pub fn serve(self) -> Endpoint {
        let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
        let heard = asked.clone();
        let url = fake_rpc::answering_to(move |method, params| {
            let question = (method.to_owned(), params.clone());
            heard.lock().unwrap().push(question);
            self.answer(method, params)
        });
        let rpc = Rpc::new(&url).unwrap();
        Endpoint { rpc, asked }
    }

    fn answer(&self, method: &str, params: &Value) -> Value {
        let height = params["height"].as_str().unwrap_or_default();
        match method {
            "status" => fake_rpc::status(CHAIN, self.tip()),
            "commit" => self.answers["commit"][height].clone(),
            "validators" => {
                let number = |name: &str| params[name].as_str().unwrap().parse::<usize>().unwrap();
                assert!(number("per_page") <= 100, "more than CometBFT gives");
                let all = self.answers["validators"][height]["validators"].as_array();
                let all = all.unwrap();
                let pages: Vec<_> = all.chunks(self.page).collect();
                let page = pages[number("page") - 1];
                json!({
                    "block_height": height,
                    "validators": page,
                    "count": page.len().to_string(),
                    "total": all.len().to_string(),
                })
            }
            other => panic!("asked for {other}"),
        }
    }
}

impl Endpoint {
    /// What was asked of blocks: the method and the height.
    pub fn asked(&self) -> Vec<(String, u64)> {
        let asked = self.asked.lock().unwrap();
        let height = |params: &Value| params["height"].as_str()?.parse().ok();
        let of_blocks = asked
            .iter()
            .filter_map(|(method, params)| Some((method.clone(), height(params)?)));
        of_blocks.collect()
    }
}

pub fn rules(trust_period_s: u64) -> Rules {
    Rules {
        chain_id: CHAIN.to_owned(),
        trust_period: std::time::Duration::from_secs(trust_period_s),
    }
}
