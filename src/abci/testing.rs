//! For those who test what works beside an adapter.

use std::sync::Arc;

use bytes::Bytes;

use super::session::Session;
use super::{
    AdapterSettings, Address, Chain, Learnt, Offered, Snapshots, Standing, Times, Verdict,
};
use crate::snapshot::Offer;

struct Nothing;

impl Snapshots for Nothing {
    fn list(&self, _: &Chain) -> Vec<Offer> {
        Vec::new()
    }

    fn chunk(&self, _: &Chain, _: u64, _: u32, _: u32) -> Option<Bytes> {
        None
    }

    fn offered(&self, _: &Chain, _: &Offered) -> Verdict {
        Verdict::Unchecked
    }

    fn app_version(&self, _: &Chain, _: u64) -> Option<u64> {
        None
    }

    fn snapshots(&self, _: &Chain) -> Vec<u8> {
        Vec::new()
    }

    fn sync_status(&self, _: &Chain, _: &Standing) -> Vec<u8> {
        Vec::new()
    }
}

impl Learnt {
    /// Of an adapter through which only goes what a test says.
    pub(crate) fn of_test<'a>(chain_id: impl Into<Option<&'a str>>) -> Self {
        let nowhere = Address::Tcp("127.0.0.1:1".to_owned());
        let settings = AdapterSettings {
            app: nowhere.clone(),
            listen: nowhere,
            chain_id: chain_id.into().map(str::to_owned),
            times: Times::default(),
        };
        Self(Arc::new(Session::new(settings, Arc::new(Nothing))))
    }

    /// A block goes by.
    pub(crate) fn execute(&self, height: u64, app_hash: &'static str) {
        self.0.learn(|memory| {
            memory.decided(height);
            memory.executed(app_hash.into());
        });
    }

    /// A block is committed.
    pub(crate) fn commit(&self, height: u64) {
        self.0.learn(|memory| memory.decided(height));
        self.0.committed();
    }

    /// A chain begins.
    pub(crate) fn begin(&self, chain_id: &str) {
        self.0.genesis(chain_id.to_owned());
    }
}
