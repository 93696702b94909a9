//! What each verb claims, and whether what was seen denies it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde_json::Value;

use crate::support::command::Outcome;
use crate::watcher::{Sample, Seen, Watcher};

/// What an agent is to come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// It goes on for ever, and Podman restarts it.
    Up,
    /// It runs once.
    OneShot,
    /// It runs until it succeeds.
    UntilDone,
}

/// What was seen of an agent while a verb was at work.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Truth {
    /// As wanted, all the time.
    Well,
    /// Not as wanted, all the time.
    Broken,
    /// It changed meanwhile, or a person could argue.
    Open,
}

/// A container that was restarted is not ready for so long; steadfast says ten seconds, and clocks are read apart.
const SURELY_NOT_YET: Duration = Duration::from_secs(9);
const SURELY_LONG_ENOUGH: Duration = Duration::from_secs(12);
/// Ends that lie so far back may be forgotten, or may not.
const LATELY: Duration = Duration::from_secs(100);

/// How an agent was at every sample of a verb.
pub fn truth(wanted: Wanted, name: &str, samples: &[Sample], watcher: &Watcher) -> Truth {
    // Its first life lay between two samples, and then it was well.
    let restarts = |sample: &Sample| sample.of.get(name).and_then(Option::as_ref).map_or(0, |seen| seen.restarts);
    if samples.windows(2).any(|pair| restarts(&pair[0]) == 0 && restarts(&pair[1]) > 0) {
        return Truth::Open;
    }
    let each: BTreeSet<u8> = samples.iter().map(|sample| judge(wanted, name, sample, watcher) as u8).collect();
    match each.into_iter().collect::<Vec<_>>()[..] {
        [one] if one == Truth::Well as u8 => Truth::Well,
        [one] if one == Truth::Broken as u8 => Truth::Broken,
        _ => Truth::Open,
    }
}

fn judge(wanted: Wanted, name: &str, sample: &Sample, watcher: &Watcher) -> Truth {
    let Some(seen) = sample.of.get(name).and_then(Option::as_ref) else { return Truth::Broken };
    if !seen.ours {
        return Truth::Broken;
    }
    let ended_lately = watcher.restarts_before(name, sample.at, LATELY);
    match seen.status.as_str() {
        "running" => running(seen, ended_lately, sample),
        "exited" | "stopped" => match (wanted, seen.code) {
            (Wanted::OneShot | Wanted::UntilDone, 0) => Truth::Well,
            (Wanted::OneShot, _) => Truth::Broken,
            // Podman, or `run`, may be about to bring it back: but it is not ready.
            _ => Truth::Broken,
        },
        "created" | "paused" => Truth::Broken,
        _ => Truth::Open,
    }
}

fn running(seen: &Seen, ended_lately: u64, sample: &Sample) -> Truth {
    let up = seen.started.and_then(|started| sample.wall.duration_since(started).ok()).unwrap_or_default();
    let unhealthy = seen.health == "unhealthy";
    if unhealthy || seen.health == "starting" {
        return Truth::Broken;
    }
    if seen.restarts > 0 && up < SURELY_NOT_YET {
        return Truth::Broken;
    }
    let since_end = seen.finished.and_then(|ended| sample.wall.duration_since(ended).ok());
    let ended = since_end.is_some_and(|since| since < SURELY_LONG_ENOUGH);
    if ended || ended_lately > 0 { Truth::Open } else { Truth::Well }
}

/// One verb that was asked, and what was seen meanwhile.
pub struct Asked {
    pub verb: &'static str,
    pub outcome: Outcome,
    pub truths: BTreeMap<String, Truth>,
}

/// What a verb says of all agents: converged or not, where it says either.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Said {
    AllIsWell,
    NotAllIsWell,
}

impl Asked {
    /// On a machine that has more to do than it can, Podman may take longer than a verb waits for it. Then it says that
    /// nothing is known, and claims nothing.
    fn saw_nothing(json: &Value) -> bool {
        [&json["podman"], &json["observed"]["podman"]].iter().any(|podman| podman["reachable"] == false)
    }

    /// What it says of everything.
    pub fn of_all(&self) -> Option<Said> {
        let said = |well: bool| Some(if well { Said::AllIsWell } else { Said::NotAllIsWell });
        let json = self.json();
        if Self::saw_nothing(&json) && json["converged"] != true {
            return None;
        }
        match self.verb {
            "apply" | "status" | "plan" => said(json.get("converged")? == true),
            "doctor" => said(json.get("ok")? == true),
            _ => None,
        }
    }

    /// What it says of one agent.
    pub fn of(&self, agent: &str) -> Option<Said> {
        let said = |well: bool| Some(if well { Said::AllIsWell } else { Said::NotAllIsWell });
        let json = self.json();
        if Self::saw_nothing(&json) && json["ready"] != true && json["agents"][agent]["ready"] != true {
            return None;
        }
        match self.verb {
            "status" => said(json["agents"][agent]["ready"] == true),
            "why" if json["agent"] == agent => said(json["ready"] == true),
            _ => None,
        }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.outcome.stdout).unwrap_or(Value::Null)
    }

    /// Everything that what was seen denies, and what it says against itself.
    pub fn denied(&self) -> Vec<String> {
        let mut denied = Vec::new();
        let mut deny = |what: String| {
            denied.push(format!("`{}` (exit {}): {what}\n{}", self.verb, self.outcome.code, self.outcome.shown()));
        };
        let broken: Vec<_> =
            self.truths.iter().filter(|(_, truth)| **truth == Truth::Broken).map(|(name, _)| name).collect();
        let all_well = self.truths.values().all(|truth| *truth == Truth::Well);
        match self.of_all() {
            Some(Said::AllIsWell) if !broken.is_empty() => {
                deny(format!("says that all is well, and these are broken all the while: {broken:?}"));
            }
            Some(Said::NotAllIsWell) if all_well && self.verb != "apply" => {
                deny("says that not all is well, and all of them are, all the while".to_owned());
            }
            _ => {}
        }
        for (name, truth) in &self.truths {
            match (self.of(name), truth) {
                (Some(Said::AllIsWell), Truth::Broken) => deny(format!("says that `{name}` is ready, which it is not")),
                (Some(Said::NotAllIsWell), Truth::Well) => {
                    deny(format!("says that `{name}` is not ready, which it is"))
                }
                _ => {}
            }
        }
        if let Some(wrong) = self.exit_code_denied() {
            deny(wrong);
        }
        denied
    }

    /// The exit code says the same as the JSON.
    fn exit_code_denied(&self) -> Option<String> {
        let code = self.outcome.code;
        let expected: &[i32] = match (self.verb, self.of_all()) {
            ("apply" | "status", Some(Said::AllIsWell)) => &[0],
            ("apply", Some(Said::NotAllIsWell)) => &[1, 3, 4, 6],
            ("status", Some(Said::NotAllIsWell)) => &[1, 3],
            ("doctor", Some(Said::AllIsWell)) => &[0],
            ("doctor", Some(Said::NotAllIsWell)) => &[1],
            ("plan", Some(_)) => {
                let json = self.json();
                let empty = |list: &str| json[list].as_array().is_some_and(Vec::is_empty);
                if empty("actions") && empty("waiting") { &[0] } else { &[1, 2] }
            }
            _ => return None,
        };
        (!expected.contains(&code)).then(|| format!("its exit code should be one of {expected:?}"))
    }
}

/// What two verbs that were asked while the world stood still say against each other.
pub fn contradictions(asked: &[Asked]) -> Vec<String> {
    let mut found = Vec::new();
    let still = asked.iter().filter(|asked| asked.truths.values().all(|truth| *truth != Truth::Open));
    let mut said: BTreeMap<BTreeMap<String, u8>, Vec<(&'static str, Said)>> = BTreeMap::new();
    for one in still {
        let world = one.truths.iter().map(|(name, truth)| (name.clone(), *truth as u8)).collect();
        if let Some(of_all) = one.of_all() {
            said.entry(world).or_default().push((one.verb, of_all));
        }
    }
    for (world, said) in said {
        if said.iter().any(|(_, one)| *one != said[0].1) {
            found.push(format!("of one and the same world {world:?} the verbs say {said:?}"));
        }
    }
    found
}
