//! Questions about blocks: headers, the signatures under them, validators.

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tendermint::block::signed_header::SignedHeader;

use super::answers::{CommitAnswer, SignedHeaderAnswer, ValidatorsAnswer, moment};
use super::{Header, HeaderAfter, Rpc, RpcError, Validator};
use crate::snapshot::{MAX_APP_HASH_BYTES, MAX_HEIGHT};

/// The question that brings a header.
const COMMIT: &str = "commit";
/// The question that brings validators.
const VALIDATORS: &str = "validators";
/// CometBFT gives so many validators at once and no more.
const VALIDATORS_AT_ONCE: usize = 100;
/// Validators of one block: CometBFT's own limit for a commit (`MaxVotesCount`). In
/// memory they have 1 MB.
pub(in crate::comet) const MAX_VALIDATORS: usize = 10_000;

impl Rpc {
    /// The application hash of the state after `height`, which stands in header
    /// `height` + 1. [`RpcError::TooNew`] until that block exists.
    pub async fn app_hash_after(&self, height: u64) -> Result<Bytes, RpcError> {
        Ok(self.header_after(height).await?.app_hash)
    }

    /// What header `height` + 1 says of the state after `height`.
    pub async fn header_after(&self, height: u64) -> Result<HeaderAfter, RpcError> {
        if height == 0 {
            return Err(self.no_header(0));
        }
        let header = self.header(height.saturating_add(1)).await?;
        if header.app_hash.is_empty() {
            return Err(self.wrong(COMMIT, "an application hash of 0 bytes".to_owned()));
        }
        Ok(HeaderAfter {
            app_hash: header.app_hash,
            app_version: header.app_version,
        })
    }

    /// The header of a block, as the node tells it. [`RpcError::TooNew`] until that
    /// block exists.
    pub async fn header(&self, height: u64) -> Result<Header, RpcError> {
        let answer: CommitAnswer<SignedHeaderAnswer> = self.commit(height).await?;
        let signed = answer.signed_header;
        let header = signed.header;
        self.must_be(COMMIT, "header", height, header.height.0)?;
        Ok(Header {
            block_hash: match &signed.commit {
                Some(commit) => self.hash(&commit.block_id.hash, "block")?,
                None => Bytes::new(),
            },
            app_hash: self.hash(&header.app_hash, "application")?,
            app_version: header.version.app.0,
            time: moment(&header.time),
        })
    }

    /// The header of a block with the signatures under it. Nothing of it is checked
    /// but its form and its height.
    pub(in crate::comet) async fn signed_header(
        &self,
        height: u64,
    ) -> Result<SignedHeader, RpcError> {
        let answer: CommitAnswer<SignedHeader> = self.commit(height).await?;
        let signed = answer.signed_header;
        self.must_be(COMMIT, "header", height, signed.header.height.value())?;
        let len = signed.header.app_hash.as_bytes().len();
        if len > MAX_APP_HASH_BYTES {
            return Err(self.wrong(COMMIT, format!("an application hash of {len} bytes")));
        }
        Ok(signed)
    }

    /// The validators of a block, in their order: [`MAX_VALIDATORS`] at most.
    pub(in crate::comet) async fn validators(
        &self,
        height: u64,
    ) -> Result<Vec<Validator>, RpcError> {
        let mut all = Vec::new();
        for page in 1..=MAX_VALIDATORS.div_ceil(VALIDATORS_AT_ONCE) {
            let params = json!({
                "height": height.to_string(),
                "page": page.to_string(),
                "per_page": VALIDATORS_AT_ONCE.to_string(),
            });
            let answer: ValidatorsAnswer = self.of_block(VALIDATORS, height, params).await?;
            self.must_be(VALIDATORS, "validators", height, answer.block_height.0)?;
            if answer.validators.is_empty() {
                return Err(self.wrong(VALIDATORS, format!("page {page} is empty")));
            }
            for validator in answer.validators {
                all.push(Validator {
                    key_type: validator.pub_key.key_type,
                    key: validator.pub_key.value.0.into(),
                    power: validator.voting_power.0,
                });
            }
            if all.len() > MAX_VALIDATORS {
                break;
            }
            if all.len() as u64 >= answer.total.0 {
                return Ok(all);
            }
        }
        Err(self.wrong(VALIDATORS, format!("more than {MAX_VALIDATORS} validators")))
    }

    async fn commit<T: DeserializeOwned>(&self, height: u64) -> Result<T, RpcError> {
        if height == 0 || height > MAX_HEIGHT {
            return Err(self.no_header(height));
        }
        let params = json!({ "height": height.to_string() });
        self.of_block(COMMIT, height, params).await
    }

    /// Asks something about a block that there may not be.
    async fn of_block<T: DeserializeOwned>(
        &self,
        method: &'static str,
        height: u64,
        params: Value,
    ) -> Result<T, RpcError> {
        match self.ask(method, params).await {
            // The node's own words differ by version: its status tells why.
            Err(refused @ RpcError::Refused { .. }) => {
                Err(self.why_no_block(height, refused).await)
            }
            answered => answered,
        }
    }

    fn hash(&self, text: &str, of: &str) -> Result<Bytes, RpcError> {
        let hash = hex::decode(text)
            .map_err(|_| self.wrong(COMMIT, format!("an {of} hash that is not hex")))?;
        if hash.len() > MAX_APP_HASH_BYTES {
            let problem = format!("an {of} hash of {} bytes", hash.len());
            return Err(self.wrong(COMMIT, problem));
        }
        Ok(hash.into())
    }

    fn must_be(
        &self,
        method: &'static str,
        what: &str,
        wanted: u64,
        found: u64,
    ) -> Result<(), RpcError> {
        match found == wanted {
            true => Ok(()),
            false => Err(self.wrong(method, format!("{what} {found} instead of {wanted}"))),
        }
    }

    fn no_header(&self, height: u64) -> RpcError {
        let problem = format!("height {height} is no height of a snapshot");
        self.wrong(COMMIT, problem)
    }

    async fn why_no_block(&self, needed: u64, refused: RpcError) -> RpcError {
        let (url, height) = (self.url(), needed.saturating_sub(1));
        match self.status().await {
            Ok(status) if needed > status.height => RpcError::TooNew {
                url,
                height,
                needed,
                tip: status.height,
            },
            Ok(status) if needed < status.earliest_height => RpcError::Pruned {
                url,
                height,
                needed,
                earliest: status.earliest_height,
            },
            _ => refused,
        }
    }
}
