//! A CometBFT node's RPC, as far as a test network needs it. The route form
//! (`/method?name=value`) is used because the client library in the tree has
//! no `dial_peers`.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A node that has not answered by then is asked again by whoever waits.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The RPC of one node.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "SocketAddr", into = "SocketAddr")]
pub struct Rpc {
    address: SocketAddr,
    url: String,
    client: reqwest::Client,
}

/// What `/status` tells.
pub struct NodeStatus {
    /// Newest block stored.
    pub height: u64,
    /// Oldest block kept.
    pub earliest_height: u64,
}

/// What an application is asked.
pub struct Question {
    /// What it is about, where the application has more than one kind.
    pub path: String,
    /// The question itself.
    pub data: Vec<u8>,
}

/// A header, as far as it is compared.
pub struct Header {
    /// Application hash after the block before.
    pub app_hash: String,
}

impl TryFrom<SocketAddr> for Rpc {
    type Error = anyhow::Error;

    fn try_from(address: SocketAddr) -> anyhow::Result<Self> {
        Self::new(address)
    }
}

impl From<Rpc> for SocketAddr {
    fn from(rpc: Rpc) -> Self {
        rpc.address
    }
}

impl Rpc {
    /// For the node that listens at `address`.
    pub fn new(address: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self {
            address,
            url: format!("http://{address}"),
            client: reqwest::Client::builder()
                .timeout(REQUEST_TIMEOUT)
                .build()?,
        })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `http://HOST:PORT`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Calls `method`; values are as the route form wants them: strings in
    /// quotes, bytes as `0x…`.
    async fn call(&self, method: &str, values: &[(&str, &str)]) -> anyhow::Result<Value> {
        let asked = || format!("{}/{method}", self.url);
        let body: Vec<String> = values
            .iter()
            .map(|(name, value)| format!("{name}={}", percent_encoded(value)))
            .collect();
        // As a form: a transaction is too long for an address line.
        let request = self
            .client
            .post(asked())
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body.join("&"));
        let answer = request.send().await.with_context(asked)?;
        let text = answer.text().await.with_context(asked)?;
        let mut json: Value = serde_json::from_str(&text)
            .with_context(|| format!("{} answers with no JSON: {text:.200}", asked()))?;
        if let Some(error) = json.get("error") {
            bail!("{} answers: {error}", asked());
        }
        Ok(json["result"].take())
    }

    /// `/status`.
    pub async fn status(&self) -> anyhow::Result<NodeStatus> {
        let status = self.call("status", &[]).await?;
        let sync = &status["sync_info"];
        Ok(NodeStatus {
            height: number(&sync["latest_block_height"])?,
            earliest_height: number(&sync["earliest_block_height"])?,
        })
    }

    /// The header at `height`.
    pub async fn header(&self, height: u64) -> anyhow::Result<Header> {
        let commit = self
            .call("commit", &[("height", &height.to_string())])
            .await?;
        let signed = &commit["signed_header"];
        Ok(Header {
            app_hash: text(&signed["header"]["app_hash"])?,
        })
    }

    /// Hands a transaction over, as the route form wants it, and waits until the mempool
    /// took it; `key` is its name for a person.
    pub async fn broadcast(&self, key: &str, tx: &str) -> anyhow::Result<()> {
        let answer = self.call("broadcast_tx_sync", &[("tx", tx)]).await?;
        if answer["code"] != 0 {
            bail!("{} refuses the transaction {key}: {answer}", self.url);
        }
        Ok(())
    }

    /// What the application answers, in base64.
    pub async fn value(&self, question: &Question) -> anyhow::Result<String> {
        let data = format!("0x{}", hex::encode(&question.data));
        let path = format!("\"{}\"", question.path);
        let answer = self
            .call("abci_query", &[("path", &path), ("data", &data)])
            .await?;
        text(&answer["response"]["value"])
            .with_context(|| format!("the application of {} answers: {answer:.200}", self.url))
    }
}

fn number(value: &Value) -> anyhow::Result<u64> {
    value
        .as_str()
        .and_then(|text| text.parse().ok())
        .with_context(|| format!("{value} is no number in a string"))
}

fn text(value: &Value) -> anyhow::Result<String> {
    let text = value.as_str().filter(|text| !text.is_empty());
    Ok(text
        .with_context(|| format!("{value} is no text"))?
        .to_owned())
}

/// For a form's value: all but letters and digits as `%XX`.
fn percent_encoded(value: &str) -> String {
    let mut encoded = String::with_capacity(value.len() + 16);
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_forms_value_keeps_no_sign_that_a_form_gives_a_meaning() {
        assert_eq!(percent_encoded("\"k=v\""), "%22k%3Dv%22");
        assert_eq!(percent_encoded("a+b&c d"), "a%2Bb%26c%20d");
    }
}
