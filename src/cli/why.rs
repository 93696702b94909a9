//! `why`: one fresh observation and the journal, for one agent.

use std::time::SystemTime;

use super::history::{each, journal_path, unknown_agent};
use super::reconcile::plain_policy;
use super::render::{self, why as render_why};
use super::status::{not_ready_in, snapshot, view_of_run};
use super::{CliError, ExitStatus, Format, Settings, WhyArgs, ownership};
use crate::backend::cache::CacheOptions;
use crate::snapshot::Snapshot;
use crate::status::{ConditionReason, HealthStatus};
use crate::why::{BackingOff, Past, awaited, why as explain};

pub(super) async fn why(settings: &Settings, args: WhyArgs) -> Result<ExitStatus, CliError> {
    let desired = settings.load(None)?.desired;
    ownership::check(settings, &desired)?;
    let agent = &args.agent;
    if !desired.agents.contains_key(agent) {
        let mut past = Past::of(agent);
        each(&journal_path(&desired), |entry| past.add(entry))?;
        if !past.is_mentioned() {
            let names = desired.agents.keys().map(ToString::to_string).collect();
            return Err(unknown_agent(agent, "the state file does not have", &names));
        }
    }
    let snapshot = match settings.world(&desired, CacheOptions { retries: 0, ..CacheOptions::default() }) {
        Ok(world) => snapshot(&world, &desired).await,
        // Without a socket the rest of the chain is still worth telling.
        Err(err) => {
            let store = settings.cache(&desired.root, CacheOptions { retries: 0, ..CacheOptions::default() })?;
            Snapshot::without_engine(&store, &desired, &plain_policy(&desired), err.message).await
        }
    };
    let mut past = Past::sharing(agent, awaited(agent, &snapshot.plan));
    each(&journal_path(&desired), |entry| past.add(entry))?;
    let mut why = explain(agent, &desired, &snapshot, past, SystemTime::now());
    if let Some((view, run)) = view_of_run(settings, Some(&desired)).await {
        // What `run` knows of an agent's past, one observation cannot tell; and both are to say one thing.
        if let (Some(said), Some(known)) = (not_ready_in(&view, agent), &mut why.known) {
            let health = said.health.known().unwrap_or(HealthStatus::Progressing);
            let reason = said.reason.known().unwrap_or(ConditionReason::Pending);
            known.status.doubt(health, reason, &said.message, said.stalled);
        }
        if why.known.as_ref().is_some_and(|known| !known.status.ready) && why.backoff.is_none() {
            let off = run.backing_off.into_iter().find(|off| off.agent.as_ref() == Some(agent));
            why.backoff = off.map(|off| BackingOff { until: off.retry_at, why: Some(off.cause) });
        }
    }
    match settings.output {
        Format::Json | Format::Yaml => render::print_data(settings.output, &render_why::json(&why))?,
        Format::Text | Format::Markdown => render::print(&render_why::text(&why, settings.color_stdout))?,
    }
    Ok(if why.podman_unseen.is_some() { ExitStatus::Error } else { ExitStatus::Done })
}
