//! What the signature of a manifest costs: one of 1 MiB verified, as a fetch does it.
//!
//! `cargo bench --bench verify [-- ROUNDS]`

use std::time::{Instant, SystemTime};

use steadfast::model::Manifest;
use steadfast::publish::key;
use steadfast::trust;

fn main() {
    let rounds = std::env::args().find_map(|word| word.parse::<usize>().ok()).unwrap_or(200);
    let keys = key::generate(None).expect("keys");
    let secret = key::read(&keys.secret, || Err(String::new())).expect("a secret key");
    let tarball = serde_json::json!({"key": "vm/images/a-1-x64.tar.gz", "sha256": "0".repeat(64), "sizeBytes": 1});
    let agents: serde_json::Map<_, _> = (0..2500)
        .map(|n| {
            let tarballs = serde_json::json!({"x64": tarball, "arm64": tarball});
            (format!("agent-{n}"), serde_json::json!({"image": "i", "version": "1", "tarballs": tarballs}))
        })
        .collect();
    let updated_at = "2026-04-24T00:00:00.000Z";
    let manifest = serde_json::json!({"schemaVersion": 2, "updatedAt": updated_at, "agents": agents});
    let bytes = serde_json::to_vec_pretty(&manifest).expect("JSON");
    let signature = trust::sign(&bytes, updated_at, 1, None, &secret).expect("signed");
    let (mut verified, mut parsed) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let began = Instant::now();
        let signature = Some(signature.as_bytes());
        trust::verify(&bytes, updated_at, signature, std::slice::from_ref(&keys.key), SystemTime::now()).expect("ours");
        verified.push(began.elapsed());
        let began = Instant::now();
        Manifest::parse(&bytes).expect("a manifest");
        parsed.push(began.elapsed());
    }
    verified.sort();
    parsed.sort();
    println!("a manifest of {} KiB, {rounds} rounds, medians", bytes.len() / 1024);
    println!("verified  {:?} (at most {:?})", verified[rounds / 2], verified[rounds - 1]);
    println!("parsed    {:?}", parsed[rounds / 2]);
}
