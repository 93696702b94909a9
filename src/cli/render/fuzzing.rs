//! What the fuzz targets reach of what is said: text as it is written, after everything on its way to standard output.

use std::time::SystemTime;

use serde::Serialize;
use serde_json::Value;

use super::{errors::CliError, plan, report, status, terminal, why};
use crate::backend::EngineError;
use crate::cli::Format;
use crate::control::client::AskError;
use crate::control::{Outcome, Problem, Run};
use crate::model::Desired;
use crate::reconcile::lock::Holder;
use crate::snapshot::Snapshot;
use crate::state::StateError;
use crate::why::{Past, why as explain};

/// What verbs write of an observation.
#[derive(Debug)]
pub struct Pages {
    /// Pages for people: `plan` in text and in Markdown, `status`, `why`.
    pub pages: Vec<String>,
    /// The same for programs.
    pub data: Vec<String>,
}

/// All that is said of an observation.
pub fn snapshot(desired: &Desired, snapshot: &Snapshot) -> Pages {
    let told = serde_json::to_value(&snapshot.status).unwrap();
    let mut pages = vec![
        plan::text(desired, snapshot, false),
        plan::markdown(desired, snapshot),
        status::text(&told, false).expect("a status of ours"),
    ];
    let guest = snapshot.observed.guest.present();
    let plan = plan::json(&desired.name, &snapshot.plan, guest, snapshot.status.converged);
    let mut data = vec![written(Format::Json, &plan), written(Format::Json, &told), written(Format::Yaml, &told)];
    for agent in desired.agents.keys() {
        let why = explain(agent, desired, snapshot, Past::of(agent), SystemTime::now());
        pages.push(why::text(&why, false));
        data.push(written(Format::Json, &why::json(&why)));
    }
    Pages { pages: pages.iter().map(|page| terminal::finish(page).into_owned()).collect(), data }
}

fn written(format: Format, value: &impl Serialize) -> String {
    super::data(format, value).unwrap_or_else(|err| panic!("{}", err.message))
}

/// A view of `run` as `status` shows it. `None` when it is none.
pub fn view(view: &Value) -> Option<String> {
    let _ = serde_json::from_value::<Run>(view.get("run")?.clone()).ok()?;
    status::text(view, false).ok().map(|page| terminal::finish(&page).into_owned())
}

/// What `apply` says of an outcome that `run` tells: the closing sentence first, then each problem.
pub fn outcome(outcome: &Outcome) -> Vec<String> {
    let _ = written(Format::Json, &report::json_of(outcome));
    let problems = outcome.problems.iter().map(|problem: &Problem| problem.message.as_str());
    [report::text_of(outcome, false).as_str()]
        .into_iter()
        .chain(problems)
        .map(|text| terminal::finish(text).into_owned())
        .collect()
}

/// What is said where `run` was asked and does not answer.
pub fn not_answered(err: &AskError) -> String {
    let holder = Holder {
        pid: 7,
        command: "run".into(),
        since: "2026-04-24T00:00:00Z".into(),
        file: None,
        layers: Box::default(),
    };
    said(&CliError::from_asking(&holder, err))
}

/// What is said where Podman refuses.
pub fn refused(err: &EngineError) -> String {
    said(&CliError::from_engine(err))
}

/// What is said of a state file that cannot be used: the whole page.
pub fn invalid(err: &StateError) -> String {
    CliError::state(err, false).message
}

fn said(err: &CliError) -> String {
    terminal::finish(&err.message).into_owned()
}
