//! Every target over its corpus, and over mutations of it that are the same on every run.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use fuzz_targets::{Target, mutation::mutate};

/// How many mutations of a corpus are tried, unless time is over first.
const MUTATIONS: u64 = 20_000;
const MOST_TIME: Duration = Duration::from_secs(3);

fn run(name: &str) {
    let (_, target) = fuzz_targets::ALL.into_iter().find(|(other, _)| *other == name).unwrap();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/corpus").join(name);
    let mut files: Vec<_> =
        fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(!files.is_empty(), "no seeds in {}", folder.display());
    let seeds: Vec<Vec<u8>> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    for (file, seed) in files.iter().zip(&seeds) {
        play(target, seed, || format!("{}", file.display()));
    }
    let started = Instant::now();
    for round in 0..MUTATIONS {
        if started.elapsed() > MOST_TIME {
            break;
        }
        let place = round as usize % seeds.len();
        let other = &seeds[(place + round as usize / seeds.len()) % seeds.len()];
        let input = mutate(&seeds[place], other, round);
        play(target, &input, || {
            format!("mutation {round} of {}:\n{}", files[place].display(), input.escape_ascii())
        });
    }
}

fn play(target: Target, input: &[u8], what: impl Fn() -> String) {
    let result = std::panic::catch_unwind(|| target(input));
    assert!(result.is_ok(), "{}", what());
}

macro_rules! targets {
    ($($name:ident)+) => { $(#[test] fn $name() { run(stringify!($name)); })+ };
}

targets!(json sse streams configuration exchange events);

#[test]
fn every_target_is_run() {
    assert_eq!(fuzz_targets::ALL.len(), 6);
}
