//! `status`: desired beside observed, once or for as long as one likes.

use std::time::{Duration, SystemTime};

use futures_util::StreamExt;

use super::render::{self, status as render_status};
use super::{CliError, ExitStatus, Format, Settings, StatusArgs};
use crate::backend::cache::{Cache, CacheOptions};
use crate::backend::podman::Podman;
use crate::backend::{Engine, World};
use crate::model::Desired;
use crate::observe::{look_at_published, observe};
use crate::plan::{Policy, plan};
use crate::status::{Status, carry_over};

/// How long `--watch` waits for an event before it looks again by itself.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
/// How long it lets events gather.
const GATHER: Duration = Duration::from_millis(100);

pub(super) async fn status(settings: &Settings, args: StatusArgs) -> Result<ExitStatus, CliError> {
    let desired = settings.load(None)?.desired;
    let world = settings.world(&desired, CacheOptions { retries: 0, ..CacheOptions::default() })?;
    let first = look(&world, &desired).await;
    show(settings, &first, false)?;
    if !args.watch {
        return Ok(if first.podman.reachable { ExitStatus::Done } else { ExitStatus::Error });
    }
    watch(settings, &world, desired, first).await
}

async fn look(world: &World<Podman, Cache>, desired: &Desired) -> Status {
    let published = look_at_published(&world.store, desired).await;
    let observed = observe(world, desired, &published).await;
    let plan = plan(desired, &observed, &Policy::default());
    crate::status::status(desired, &observed, &plan, SystemTime::now())
}

/// Prints again whenever something changes, until the user has seen enough. The state file is read anew each time, unless
/// it came through a pipe; while it is broken, the last good one goes on.
async fn watch(
    settings: &Settings,
    world: &World<Podman, Cache>,
    mut desired: Desired,
    mut shown: Status,
) -> Result<ExitStatus, CliError> {
    let mut events = None;
    loop {
        if events.is_none() {
            events = world.engine.events(&desired.name).await.ok();
        }
        tokio::select! {
            // An event that is lost here costs two seconds, no more.
            event = async { match &mut events { Some(events) => events.next().await, None => std::future::pending().await } } => {
                if !matches!(event, Some(Ok(_))) {
                    events = None;
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                tokio::time::sleep(GATHER).await;
            }
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
        if settings.can_read_again()
            && let Ok(loaded) = settings.load(None)
        {
            desired = loaded.desired;
        }
        let mut status = look(world, &desired).await;
        carry_over(&mut status, &shown);
        let same = Status { observed_at: shown.observed_at.clone(), ..status.clone() } == shown;
        if !same {
            show(settings, &status, true)?;
            shown = status;
        }
    }
}

fn show(settings: &Settings, status: &Status, again: bool) -> Result<(), CliError> {
    match settings.output {
        Format::Json | Format::Yaml => render::print_data(settings.output, status),
        Format::Text | Format::Markdown => {
            let gap = if again { "\n" } else { "" };
            render::print(&format!("{gap}{}", render_status::text(status, settings.color_stdout)))
        }
    }
}
