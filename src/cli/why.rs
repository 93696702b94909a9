//! `why`: one fresh look and the journal, for one agent.

use std::time::SystemTime;

use super::history::{each, journal_path, unknown_agent};
use super::render::{self, why as render_why};
use super::status::view_of_run;
use super::{CliError, ExitStatus, Format, Settings, WhyArgs};
use crate::backend::cache::CacheOptions;
use crate::model::{AgentName, Desired, Seen};
use crate::observe::{Published, look_at_published, observe};
use crate::plan::{Policy, plan};
use crate::why::{BackingOff, Past, why as explain};

pub(super) async fn why(settings: &Settings, args: WhyArgs) -> Result<ExitStatus, CliError> {
    let desired = settings.load(None)?.desired;
    let agent = &args.agent;
    let mut past = Past::of(agent);
    each(&journal_path(&desired), |entry| past.add(entry))?;
    let is_wanted = desired.agents.contains_key(agent);
    if !is_wanted && !past.is_mentioned() {
        let names = desired.agents.keys().map(ToString::to_string).collect();
        return Err(unknown_agent(agent, "the state file does not have", &names));
    }
    let observed = match settings.world(&desired, CacheOptions { retries: 0, ..CacheOptions::default() }) {
        Ok(world) => {
            let published = look_at_published(&world.store, &desired).await;
            observe(&world, &desired, &published).await
        }
        // Without a socket the rest of the chain is still worth telling.
        Err(err) => unseen(settings, &desired, err).await?,
    };
    let plan = plan(&desired, &observed, &Policy::default());
    let mut why = explain(agent, &desired, &observed, &plan, past, SystemTime::now());
    if why.known.as_ref().is_some_and(|known| !known.status.ready) && why.backoff.is_none() {
        why.backoff = backoff(settings, &desired, agent).await;
    }
    match settings.output {
        Format::Json | Format::Yaml => render::print_data(settings.output, &render_why::json(&why))?,
        Format::Text | Format::Markdown => render::print(&render_why::text(&why, settings.color_stdout))?,
    }
    Ok(if why.podman_unseen.is_some() { ExitStatus::Error } else { ExitStatus::Done })
}

/// Until when a `run` that keeps the state file leaves the agent alone.
async fn backoff(settings: &Settings, desired: &Desired, agent: &AgentName) -> Option<BackingOff> {
    let (_, run) = view_of_run(settings, Some(desired)).await?;
    let off = run.backing_off.into_iter().find(|off| off.agent.as_ref() == Some(agent))?;
    Some(BackingOff { until: off.retry_at, why: Some(off.cause) })
}

/// What can be seen where Podman has no socket: the cache and the manifest.
async fn unseen(settings: &Settings, desired: &Desired, err: CliError) -> Result<crate::model::Observed, CliError> {
    use crate::backend::Store;

    let store = settings.cache(&desired.root, CacheOptions { retries: 0, ..CacheOptions::default() })?;
    let Published { manifest: published, .. } = look_at_published(&store, desired).await;
    let local = store
        .local(desired.manifest.as_ref())
        .await
        .map_or_else(unknown, |local| local.map_or(Seen::Absent, Seen::Present));
    let artifacts = store.list().await.map_or_else(unknown, Seen::Present);
    let (vm, reach) = (Seen::Absent, crate::model::Reach::default());
    Ok(crate::model::Observed { published, local, artifacts, vm, reach, guest: Seen::Unknown { why: err.message } })
}

fn unknown<T>(err: crate::backend::StoreError) -> Seen<T> {
    Seen::Unknown { why: crate::error::Chain(&err).to_string() }
}
