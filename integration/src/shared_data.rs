//! Shared data with compare-and-swap, as every VM of one `vm_id` sees it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Status;

#[derive(Default)]
struct Entries {
    values: HashMap<Vec<u8>, (Vec<u8>, u32)>,
    last_cas: u32,
}

/// One shared store. Clones share it, so two hosts built with clones of it
/// behave as two workers of one proxy.
#[derive(Clone, Default)]
pub struct SharedData(Arc<Mutex<Entries>>);

impl SharedData {
    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value and its version.
    pub fn get(&self, key: &[u8]) -> Option<(Vec<u8>, u32)> {
        self.entries().values.get(key).cloned()
    }

    /// Every key there is; the host never forgets one.
    pub fn keys(&self) -> Vec<Vec<u8>> {
        self.entries().values.keys().cloned().collect()
    }

    /// Sets a value; with a version other than 0 only where it is still that one.
    pub fn set(&self, key: Vec<u8>, value: Vec<u8>, cas: u32) -> Result<(), Status> {
        let mut entries = self.entries();
        if let Some((_, current)) = entries.values.get(&key)
            && cas != 0
            && cas != *current
        {
            return Err(Status::CasMismatch);
        }
        entries.last_cas += 1;
        let version = entries.last_cas;
        entries.values.insert(key, (value, version));
        Ok(())
    }
}
