//! Clusters that share one key space: the calls by which the original's nursery is kept.

use bytes::Bytes;

use super::reply::{Shape, reversed};
use super::request::{self, Builder, Command, Request, Target};
use super::{Client, ClientError, Entry, Sequence, unit};
use crate::consistency::Consistency;
use crate::update::{ClusterConfig, Interval, Routing, Update};
use crate::wire::{Reader, Writer as _};

/// Which end of a cluster's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fringe {
    /// The smallest keys, below the boundary.
    Upper,
    /// The largest keys, from the boundary on.
    Lower,
}

impl Client {
    /// Says which keys this cluster has.
    pub async fn set_interval(&self, interval: &Interval) -> Result<(), ClientError> {
        let builder = interval
            .bounds()
            .iter()
            .fold(Builder::new(Command::SetInterval), |builder, bound| builder.option(bound.as_deref()));
        self.call(&builder.update(Shape::Unit)?, unit).await
    }

    /// Which keys this cluster has.
    pub async fn interval(&self) -> Result<Interval, ClientError> {
        let request = Request::plain(Command::GetInterval, Shape::Interval, Target::Master);
        self.call(&request, |mut payload| Interval::decode(&mut payload.0)).await
    }

    /// Says which cluster has which keys.
    pub async fn set_routing(&self, routing: &Routing) -> Result<(), ClientError> {
        let mut bytes = Vec::new();
        routing.encode(&mut bytes);
        self.call(&Builder::new(Command::SetRouting).string(bytes).update(Shape::Unit)?, unit).await
    }

    /// Moves the border between two clusters that are neighbours, or puts a new cluster beside one that is known.
    pub async fn set_routing_delta(
        &self,
        left: impl AsRef<[u8]>,
        separator: impl AsRef<[u8]>,
        right: impl AsRef<[u8]>,
    ) -> Result<(), ClientError> {
        let builder = Builder::new(Command::SetRoutingDelta).string(left).string(separator).string(right);
        self.call(&builder.update(Shape::Unit)?, unit).await
    }

    /// Which cluster has which keys.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] when nobody has said so.
    pub async fn routing(&self) -> Result<Routing, ClientError> {
        let request = Request::plain(Command::GetRouting, Shape::Text, Target::Master);
        self.call(&request, |payload| Routing::decode(&mut Reader(payload.text()?))).await
    }

    /// Says where the nodes of a cluster are.
    pub async fn set_nursery_config(
        &self,
        cluster_id: impl AsRef<[u8]>,
        config: &ClusterConfig,
    ) -> Result<(), ClientError> {
        let mut bytes = Vec::new();
        config.encode(&mut bytes);
        let builder = Builder::new(Command::SetNurseryConfig).string(cluster_id).raw(&bytes);
        self.call(&builder.update(Shape::Unit)?, unit).await
    }

    /// Which cluster has which keys, and where the clusters are.
    ///
    /// # Errors
    /// [`ClientError::NotFound`] when there is no routing.
    pub async fn nursery_config(&self) -> Result<(Routing, Vec<(Bytes, ClusterConfig)>), ClientError> {
        let request = Request::plain(Command::GetNurseryConfig, Shape::Text, Target::Master);
        self.call(&request, |payload| {
            let mut reader = Reader(payload.text()?);
            let routing = Routing::decode(&mut reader)?;
            let count = reader.length()?;
            let configs: Result<_, _> =
                (0..count).map(|_| Ok((reader.string()?, ClusterConfig::decode(&mut reader)?))).collect();
            Ok((routing, configs?))
        })
        .await
    }

    /// About a mebibyte of entries from one end of the keys that a node has: from the smallest key up, or from the largest down.
    pub async fn fringe(&self, boundary: Option<&[u8]>, fringe: Fringe) -> Result<Vec<Entry>, ClientError> {
        let direction: i32 = if fringe == Fringe::Upper { 0 } else { 1 };
        let builder = Builder::new(Command::GetFringe).option(boundary).raw(&direction.to_le_bytes());
        let request = builder.query(Shape::Entries, Consistency::NoGuarantees)?;
        self.call(&request, |payload| payload.entries().map(reversed)).await
    }

    /// Says which keys this cluster has and does a sequence of updates, both or neither.
    pub async fn migrate_range(&self, interval: &Interval, sequence: Sequence) -> Result<(), ClientError> {
        let mut bounds = Vec::new();
        interval.bounds().iter().for_each(|bound| bounds.option_string(bound.as_deref()));
        let body = request::sequence_body(&Update::Sequence(sequence.into_updates()))?;
        let request = Builder::new(Command::MigrateRange).raw(&bounds).string(body).update(Shape::Unit)?;
        self.call(&request, unit).await
    }
}
