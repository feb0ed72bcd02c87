//! One function for each parser of untrusted bytes, which asserts the properties that hold for every input. `cargo
//! fuzz` calls them for long runs (`scripts/fuzz`); the tests here call them with `fuzz/corpus` and a fixed number of
//! mutations of it. Compiled only for tests and with the feature `fuzzing`.

mod settings;
mod texts;
mod workers;

use crate::edge::fuzz as edge;

/// A parser property; panics on an input that breaks it.
pub type Target = fn(&[u8]);

/// All targets, by the name of their corpus and in `scripts/fuzz`.
pub const TARGETS: [(&str, Target); 14] = [
    ("batch", workers::batch),
    ("callbacks", workers::callbacks),
    ("cursors", edge::cursors),
    ("engineio", edge::engineio),
    ("forwarded", edge::forwarded),
    ("frames", edge::frames),
    ("host", edge::host),
    ("jwt", edge::jwt),
    ("metadata", texts::metadata),
    ("names", texts::names),
    ("proxy", edge::proxy),
    ("requests", edge::requests),
    ("settings", settings::settings),
    ("addresses", texts::addresses),
];

/// Runs one target on one input.
///
/// # Panics
/// If the input breaks the property, or no target has this name.
pub fn run(name: &str, input: &[u8]) {
    let found = TARGETS.iter().find(|(of, _)| *of == name);
    let (_, target) = found.unwrap_or_else(|| panic!("there is no target {name}"));
    target(input);
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use proptest::{
        prelude::*,
        test_runner::{Config, TestRunner},
    };

    use super::*;

    /// Generated inputs per target, in addition to its corpus.
    const CASES: u32 = 2000;

    fn corpus(name: &str) -> Vec<Vec<u8>> {
        let below = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let files =
            fs::read_dir(below.join(name)).unwrap_or_else(|_| panic!("no corpus of {name}"));
        let mut paths: Vec<_> = files.map(|file| file.unwrap().path()).collect();
        paths.sort();
        paths.iter().map(|path| fs::read(path).unwrap()).collect()
    }

    /// A mutation of a corpus input; the position is in 65,536ths of its length.
    #[derive(Debug, Clone)]
    enum Edit {
        Put(u16, u8),
        Insert(u16, Vec<u8>),
        Remove(u16, u8),
        Repeat(u16, u8),
    }

    fn edit() -> impl Strategy<Value = Edit> {
        prop_oneof![
            (any::<u16>(), any::<u8>()).prop_map(|(at, byte)| Edit::Put(at, byte)),
            (any::<u16>(), prop::collection::vec(any::<u8>(), 1..6))
                .prop_map(|(at, bytes)| Edit::Insert(at, bytes)),
            (
                any::<u16>(),
                "[\\[\\]{}\",:;=<>@./%0-9a-f\u{202E}\u{200D}👍]{1,4}"
            )
                .prop_map(|(at, text)| Edit::Insert(at, text.into_bytes())),
            (any::<u16>(), any::<u8>()).prop_map(|(at, count)| Edit::Remove(at, count)),
            (any::<u16>(), any::<u8>()).prop_map(|(at, count)| Edit::Repeat(at, count)),
        ]
    }

    fn apply(mut input: Vec<u8>, edits: &[Edit]) -> Vec<u8> {
        for edit in edits {
            let place = |at: u16| usize::from(at) * input.len() / 65_536;
            match edit {
                Edit::Put(at, byte) => {
                    let at = place(*at);
                    if let Some(old) = input.get_mut(at) {
                        *old = *byte;
                    }
                }
                Edit::Insert(at, bytes) => {
                    let at = place(*at);
                    input.splice(at..at, bytes.iter().copied());
                }
                Edit::Remove(at, count) => {
                    let at = place(*at);
                    let end = input.len().min(at + usize::from(*count % 16));
                    input.drain(at..end);
                }
                Edit::Repeat(at, count) => {
                    let at = place(*at);
                    let end = input.len().min(at + usize::from(*count % 32));
                    let again = input[at..end].to_vec();
                    input.splice(at..at, again);
                }
            }
        }
        input
    }

    fn holds(name: &str) {
        let (_, target) = TARGETS
            .iter()
            .find(|(of, _)| *of == name)
            .expect("a target");
        let seeds = corpus(name);
        assert!(!seeds.is_empty(), "the corpus of {name} is empty");
        for seed in &seeds {
            target(seed);
        }
        let mutated = (0..seeds.len(), prop::collection::vec(edit(), 0..6))
            .prop_map(move |(seed, edits)| apply(seeds[seed].clone(), &edits));
        let input = prop_oneof![
            5 => mutated,
            1 => prop::collection::vec(any::<u8>(), 0..200),
            1 => any::<String>().prop_map(String::into_bytes),
        ];
        // Loading all settings takes a hundred times as long as parsing a frame.
        let cases = if name == "settings" {
            CASES / 20
        } else {
            CASES
        };
        let config = Config {
            cases,
            failure_persistence: None,
            ..Config::default()
        };
        let result = TestRunner::new(config).run(&input, |input| {
            target(&input);
            Ok(())
        });
        if let Err(failure) = result {
            panic!("{name}: {failure}");
        }
    }

    macro_rules! hold {
        ($($name:ident),+ $(,)?) => {
            $(#[test]
            fn $name() {
                holds(stringify!($name));
            })+

            #[test]
            fn every_target_is_tried() {
                let tried = [$(stringify!($name)),+];
                for (name, _) in TARGETS {
                    assert!(tried.contains(&name), "{name}");
                    let file = format!("fuzz/fuzz_targets/{name}.rs");
                    assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(&file).exists(), "{file}");
                }
            }
        };
    }

    hold!(
        addresses, batch, callbacks, cursors, engineio, forwarded, frames, host, jwt, metadata,
        names, proxy, requests, settings,
    );
}
