//! Faults, counted, with a few examples of each kind.

/// Examples kept of each kind of fault.
pub(super) const EXAMPLES: usize = 3;

#[derive(Default, Clone)]
pub(super) struct Fault {
    pub count: u64,
    pub examples: Vec<String>,
}

impl Fault {
    /// Counts one. `example` is called only while examples are still wanted.
    pub fn add(&mut self, example: impl FnOnce() -> String) {
        self.count += 1;
        if self.examples.len() < EXAMPLES {
            self.examples.push(example());
        }
    }
}

/// The faults that are found while events are recorded.
#[derive(Default)]
pub(super) struct Faults {
    pub duplicated: Fault,
    pub reordered: Fault,
    pub unexpected: Fault,
    pub wrong_seq: Fault,
    pub gaps: u64,
}
