//! Counters, gauges and histograms that the module defines.

use std::collections::BTreeMap;

use crate::abi::Status;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// Every metric the module defined, by name.
#[derive(Default)]
pub struct Metrics {
    ids: Vec<(Kind, String)>,
    values: BTreeMap<String, u64>,
    samples: BTreeMap<String, Vec<u64>>,
}

impl Metrics {
    /// The value of a counter or gauge; 0 where nothing defined it.
    pub fn value(&self, name: &str) -> u64 {
        self.values.get(name).copied().unwrap_or(0)
    }

    /// The samples of a histogram, in order.
    pub fn samples(&self, name: &str) -> &[u64] {
        self.samples.get(name).map_or(&[], Vec::as_slice)
    }

    /// Every counter and gauge that is not 0.
    pub fn nonzero(&self) -> BTreeMap<String, u64> {
        let set = self.values.iter().filter(|(_, value)| **value != 0);
        set.map(|(name, value)| (name.clone(), *value)).collect()
    }

    pub(crate) fn define(&mut self, kind: u32, name: String) -> Result<u32, Status> {
        let kind = match kind {
            0 => Kind::Counter,
            1 => Kind::Gauge,
            2 => Kind::Histogram,
            _ => return Err(Status::BadArgument),
        };
        match kind {
            Kind::Histogram => drop(self.samples.entry(name.clone()).or_default()),
            _ => drop(self.values.entry(name.clone()).or_default()),
        }
        self.ids.push((kind, name));
        Ok(self.ids.len() as u32)
    }

    fn named(&self, id: u32) -> Result<(Kind, &str), Status> {
        let index = (id as usize).checked_sub(1).ok_or(Status::NotFound)?;
        let (kind, name) = self.ids.get(index).ok_or(Status::NotFound)?;
        Ok((*kind, name))
    }

    pub(crate) fn increment(&mut self, id: u32, offset: i64) -> Result<(), Status> {
        let (kind, name) = self.named(id)?;
        let name = name.to_owned();
        if kind == Kind::Histogram || (kind == Kind::Counter && offset < 0) {
            return Err(Status::BadArgument);
        }
        let value = self.values.entry(name).or_default();
        *value = value.wrapping_add_signed(offset);
        Ok(())
    }

    pub(crate) fn record(&mut self, id: u32, sample: u64) -> Result<(), Status> {
        let (kind, name) = self.named(id)?;
        let name = name.to_owned();
        match kind {
            Kind::Counter => *self.values.entry(name).or_default() += sample,
            Kind::Gauge => drop(self.values.insert(name, sample)),
            Kind::Histogram => self.samples.entry(name).or_default().push(sample),
        }
        Ok(())
    }

    pub(crate) fn get(&self, id: u32) -> Result<u64, Status> {
        match self.named(id)? {
            (Kind::Histogram, _) => Err(Status::BadArgument),
            (_, name) => Ok(self.value(name)),
        }
    }
}
