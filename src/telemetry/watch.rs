//! States and pools that are read when the metrics are scraped. Each is a closure that its owner registers; it returns
//! `None` once its owner is gone, and is then removed.

use std::{collections::BTreeMap, sync::LazyLock};

use parking_lot::Mutex;

/// The state gauges: connected and working.
pub const UP: i64 = 1;
/// The state gauges: not connected.
pub const DOWN: i64 = 0;
/// The state gauges: connected, but the broker blocks publishers (memory or disk alarm).
pub const BLOCKED: i64 = -1;

/// A server that the process depends on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Dependency {
    Queue,
    Bus,
    Store,
}

/// The use of a connection pool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolUse {
    pub in_use: u64,
    /// Open and not in use.
    pub idle: u64,
    /// The most connections that the pool may open.
    pub max: u64,
}

type State = Box<dyn Fn() -> Option<i64> + Send + Sync>;
type Pool = Box<dyn Fn() -> Option<PoolUse> + Send + Sync>;

#[derive(Default)]
struct Watched {
    states: Vec<(Dependency, State)>,
    pools: Vec<(&'static str, Pool)>,
}

static WATCHED: LazyLock<Mutex<Watched>> = LazyLock::new(Mutex::default);

/// Registers a connection's state: [`UP`], [`DOWN`] or [`BLOCKED`]. With several connections to the same dependency, the
/// worst state is shown.
pub fn watch_state(of: Dependency, state: impl Fn() -> Option<i64> + Send + Sync + 'static) {
    WATCHED.lock().states.push((of, Box::new(state)));
}

/// Registers a pool. Pools of the same name are added up.
pub fn watch_pool(name: &'static str, pool: impl Fn() -> Option<PoolUse> + Send + Sync + 'static) {
    WATCHED.lock().pools.push((name, Box::new(pool)));
}

/// The state of each dependency that this process has a connection to.
pub(super) fn states() -> BTreeMap<Dependency, i64> {
    let mut worst = BTreeMap::new();
    WATCHED.lock().states.retain(|(of, state)| {
        let Some(state) = state() else {
            return false;
        };
        let known = worst.entry(*of).or_insert(state);
        if badness(state) > badness(*known) {
            *known = state;
        }
        true
    });
    worst
}

fn badness(state: i64) -> u8 {
    match state {
        UP => 0,
        BLOCKED => 1,
        _ => 2,
    }
}

/// The use of each pool.
pub(super) fn pools() -> BTreeMap<&'static str, PoolUse> {
    let mut sums = BTreeMap::<_, PoolUse>::new();
    WATCHED.lock().pools.retain(|(name, pool)| {
        let Some(pool) = pool() else {
            return false;
        };
        let sum = sums.entry(*name).or_default();
        sum.in_use += pool.in_use;
        sum.idle += pool.idle;
        sum.max += pool.max;
        true
    });
    sums
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_worst_state_is_shown_and_pools_are_added_up() {
        let (up, other) = (Arc::new(()), Arc::new(()));
        let watch = |thing: &Arc<()>, state: i64| {
            let thing = Arc::downgrade(thing);
            watch_state(Dependency::Store, move || thing.upgrade().map(|_| state));
        };
        watch(&up, UP);
        assert_eq!(states()[&Dependency::Store], UP);
        watch(&other, BLOCKED);
        assert_eq!(states()[&Dependency::Store], BLOCKED);
        let third = Arc::new(());
        watch(&third, DOWN);
        watch(&up, UP);
        assert_eq!(states()[&Dependency::Store], DOWN);
        drop((third, other));
        assert_eq!(states()[&Dependency::Store], UP);
        drop(up);
        assert_eq!(states().get(&Dependency::Store), None);

        let pool = Arc::new(());
        for in_use in [1, 2] {
            let pool = Arc::downgrade(&pool);
            watch_pool("unit test", move || {
                pool.upgrade().map(|_| PoolUse {
                    in_use,
                    idle: 1,
                    max: 4,
                })
            });
        }
        let (in_use, idle, max) = (3, 2, 8);
        assert_eq!(pools()["unit test"], PoolUse { in_use, idle, max });
        drop(pool);
        assert_eq!(pools().get("unit test"), None);
    }
}
