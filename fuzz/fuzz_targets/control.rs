//! Lines of the control socket, both ways: what a client asks, and what it is answered.

#![no_main]

use libfuzzer_sys::{fuzz_mutator, fuzz_target};
use serde_json::Value;
use steadfast::control::{MAX_REQUEST, Outcome, Request};
use steadfast::fuzzing::{answer, render};
use steadfast_fuzz::{bounded, check_message, check_page, expand, mutate_json};

fn check(line: &[u8]) {
    if line.len() <= MAX_REQUEST {
        check_request(line);
    }
    match answer(line) {
        Ok(answer) => check_answer(&answer),
        Err(err) => check_message(&render::not_answered(&err)),
    }
}

fn check_request(line: &[u8]) {
    match Request::parse(line) {
        Ok(request) => {
            let again = serde_json::to_vec(&request).unwrap();
            assert_eq!(Request::parse(&again).unwrap(), request, "a request that is written is read as the same");
        }
        Err(refused) => check_message(&refused.message),
    }
}

fn check_answer(answer: &Value) {
    if let Some(page) = render::view(answer) {
        check_page(&page);
    }
    let Some(Ok(outcome)) = answer.get("outcome").map(|told| serde_json::from_value::<Outcome>(told.clone())) else {
        return;
    };
    render::outcome(&outcome).iter().for_each(|text| check_page(text));
    let again = serde_json::to_value(&outcome).unwrap();
    assert_eq!(serde_json::from_value::<Outcome>(again).unwrap(), outcome);
}

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    mutate_json(data, size, max_size, seed, b'\n')
});

fuzz_target!(|data: &[u8]| {
    let bytes = expand(data);
    bounded(|| bytes.split(|byte| *byte == b'\n').take(4).for_each(check));
});
