//! Sequences that wait, and who of them is next.
//!
//! Between tenants: who was served least for its weight, by the Virtual Token Counter (Sheng et al., OSDI 2024); a tenant
//! that comes back does not bring along a claim for the time it was away. Within a tenant: by [`Rank`], the time of
//! arrival moved forward by priority, so that whoever waits long enough is first in the end. A priority does not help
//! against other tenants: else every tenant would ask for the highest.

use super::sequence::{Rank, SeqId, Sequence};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// A served token of weight 1.
const UNIT: u64 = 1 << 20;
/// Tenants without sequences that are remembered.
const MAX_IDLE: usize = 1024;

#[derive(Debug)]
pub(super) struct Waiting {
    ageing: Duration,
    weights: HashMap<u32, u32>,
    tenants: Vec<Tenant>,
    /// Where each waiting sequence stands.
    places: HashMap<SeqId, (u32, Rank)>,
}

#[derive(Debug)]
struct Tenant {
    id: u32,
    /// Tokens served, in units divided by the weight.
    served: u64,
    queue: BTreeMap<Rank, Sequence>,
    running: usize,
}

impl Tenant {
    fn is_idle(&self) -> bool {
        self.running == 0 && self.queue.is_empty()
    }
}

impl Waiting {
    pub(super) fn new(weights: &[(u32, u32)], ageing: Duration) -> Waiting {
        let weights = weights.iter().copied().collect();
        Waiting { ageing, weights, tenants: Vec::new(), places: HashMap::new() }
    }

    /// The rank of a sequence that arrives at the time `at`.
    pub(super) fn rank(&self, at: Duration, priority: i32, id: SeqId) -> Rank {
        let earlier = i128::from(priority) * self.ageing.as_nanos() as i128;
        Rank { time: at.as_nanos() as i128 - earlier, id }
    }

    pub(super) fn len(&self) -> usize {
        self.places.len()
    }

    /// When the sequence that has waited for longest arrived.
    pub(super) fn oldest(&self) -> Option<Duration> {
        self.tenants.iter().flat_map(|t| t.queue.values()).map(|s| s.arrived).min()
    }

    pub(super) fn push(&mut self, sequence: Sequence) {
        self.places.insert(sequence.id, (sequence.tenant, sequence.rank));
        let tenant = self.active(sequence.tenant);
        tenant.queue.insert(sequence.rank, sequence);
    }

    /// The sequence that is next.
    pub(super) fn peek(&self) -> Option<&Sequence> {
        let waiting = self.tenants.iter().filter_map(|t| t.queue.first_key_value().map(|(_, s)| (t.served, s)));
        waiting.min_by_key(|(served, sequence)| (*served, sequence.rank)).map(|(_, sequence)| sequence)
    }

    /// Takes the sequence that [`Waiting::peek`] shows; it runs from now on.
    pub(super) fn pop(&mut self) -> Option<Sequence> {
        let next = self.peek()?;
        let (tenant, rank) = (next.tenant, next.rank);
        let tenant = self.tenants.iter_mut().find(|t| t.id == tenant)?;
        let sequence = tenant.queue.remove(&rank)?;
        tenant.running += 1;
        self.places.remove(&sequence.id);
        Some(sequence)
    }

    /// Forgets a sequence. Returns whether it was waiting.
    pub(super) fn remove(&mut self, id: SeqId) -> bool {
        let Some((tenant, rank)) = self.places.remove(&id) else { return false };
        let tenant = self.tenants.iter_mut().find(|t| t.id == tenant);
        tenant.and_then(|t| t.queue.remove(&rank)).is_some()
    }

    /// A sequence of this tenant runs without having waited.
    pub(super) fn joined(&mut self, tenant: u32) {
        self.active(tenant).running += 1;
    }

    /// A sequence of this tenant runs no more.
    pub(super) fn left(&mut self, tenant: u32) {
        self.active(tenant).running -= 1;
    }

    /// Counts tokens that were computed for this tenant.
    pub(super) fn charge(&mut self, tenant: u32, tokens: u64) {
        let weight = self.weights.get(&tenant).copied().unwrap_or(1).max(1);
        let tenant = self.active(tenant);
        tenant.served = tenant.served.saturating_add(tokens * UNIT / u64::from(weight));
    }

    /// The tenant, which has or is about to have a sequence.
    fn active(&mut self, id: u32) -> &mut Tenant {
        let at = self.tenants.iter().position(|t| t.id == id);
        if let Some(at) = at.filter(|at| !self.tenants[*at].is_idle()) {
            return &mut self.tenants[at];
        }
        let least = self.tenants.iter().filter(|t| !t.is_idle()).map(|t| t.served).min().unwrap_or(0);
        let at = at.unwrap_or_else(|| {
            if self.tenants.iter().filter(|t| t.is_idle()).count() >= MAX_IDLE {
                self.tenants.retain(|t| !t.is_idle());
            }
            self.tenants.push(Tenant { id, served: 0, queue: BTreeMap::new(), running: 0 });
            self.tenants.len() - 1
        });
        let tenant = &mut self.tenants[at];
        tenant.served = tenant.served.max(least);
        tenant
    }

    /// Panics unless each tenant has as many running sequences as there are in `running`.
    #[cfg(test)]
    pub(super) fn check<'a>(&self, running: impl Iterator<Item = &'a Sequence>) {
        let mut counts: HashMap<u32, usize> = HashMap::new();
        running.for_each(|s| *counts.entry(s.tenant).or_default() += 1);
        for tenant in &self.tenants {
            assert_eq!(counts.get(&tenant.id).copied().unwrap_or(0), tenant.running, "tenant {}", tenant.id);
            for (rank, sequence) in &tenant.queue {
                assert_eq!(self.places.get(&sequence.id), Some(&(tenant.id, *rank)));
                assert!(sequence.blocks.is_empty() && sequence.computed == 0, "{sequence:?}");
            }
        }
        assert_eq!(self.places.len(), self.tenants.iter().map(|t| t.queue.len()).sum::<usize>());
    }
}
