//! Sessions that are idle, and when the sources of workspaces are looked at.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Core, Effect, Mode, Now};
use crate::backend::InAgent;
use crate::broken::Broken;
use crate::model::{AgentName, IdleAction, Observed, SessionName, SessionPhase};
use crate::plan::ActionKind;
use crate::reconcile::run::{Event, Trigger};

/// How often the sources of workspaces are looked at, at the most rarely, where nobody asks.
const SOURCES: Duration = Duration::from_secs(300);

/// An observation takes some time: less than this apart, two moments are the same.
const JITTER: Duration = Duration::from_secs(5);

/// What is known of sessions from one observation to the next.
#[derive(Debug, Default)]
pub(super) struct Sessions {
    /// Those that are idle, which was told: since when.
    idle: BTreeMap<(AgentName, SessionName), Instant>,
    /// When the sources of workspaces were last looked at.
    sources: Option<Instant>,
}

impl Core {
    /// Whether the observation that begins compares the sources of workspaces with what was put: a person asks, something is to be
    /// done about one, or it was long ago.
    pub(super) fn looks_at_sources(&mut self, now: Now) -> bool {
        const ASKED: [Trigger; 5] = [Trigger::Start, Trigger::File, Trigger::Request, Trigger::Resync, Trigger::Retry];
        let every = match self.terms.mode {
            Mode::Once { .. } => Duration::ZERO,
            Mode::Forever { resync } => resync.min(SOURCES),
        };
        let is_wanted = self.plan.ready.iter().map(|step| step.action.kind());
        let is_wanted = is_wanted.chain(self.plan.waiting.iter().map(|waiting| waiting.kind));
        let looks = self.observing.is_asked_by(&ASKED)
            || is_wanted.into_iter().any(|kind| kind == ActionKind::PrepareWorkspace)
            || self.sessions.sources.is_none_or(|last| now.at.duration_since(last) >= every);
        if Broken::SourcesForgotten.is_in() {
            return false;
        }
        if looks {
            self.sessions.sources = Some(now.at);
        }
        looks
    }

    /// Watches the sessions that are declared, tells of those that have become idle, once each time, and observes the next one when
    /// it would.
    pub(super) fn notice_sessions(&mut self, observed: &Observed, now: Now) {
        if self.is_once() {
            return;
        }
        let state_dir = self.desired.state_dir();
        let watched = observed.inside.iter().filter(|(name, inside)| {
            let declares = self.desired.agents.get(*name).is_some_and(|agent| !agent.sessions.is_empty());
            declares && inside.sessions.present().is_some()
        });
        let watched = watched.map(|(name, inside)| InAgent {
            agent: name.clone(),
            container: inside.container.clone(),
            state_dir: state_dir.clone(),
        });
        self.effects.push(Effect::WatchSessions(watched.collect()));
        let (mut idle, mut next) = (BTreeMap::new(), None::<Duration>);
        for (name, agent) in &self.desired.agents {
            let Some(found) = observed.inside.get(name).and_then(|inside| inside.sessions.present()) else { continue };
            for (session, spec) in &agent.sessions {
                let Some(after) = spec.idle.filter(|idle| idle.action == IdleAction::Notify).map(|idle| idle.after)
                else {
                    continue;
                };
                let runs = |state: &&crate::model::SessionState| state.phase == SessionPhase::Running;
                let Some(state) = found.get(session).filter(runs) else { continue };
                let Some(quiet) = state.idle else { continue };
                let key = (name.clone(), session.clone());
                match after.checked_sub(quiet).filter(|left| !left.is_zero()) {
                    Some(left) => next = Some(next.map_or(left, |next| next.min(left))),
                    None => {
                        let since = now.at.checked_sub(quiet).unwrap_or(now.at);
                        let told = self.sessions.idle.get(&key);
                        if told.is_none_or(|told| since > *told + JITTER) {
                            let session = format!("{name}/{session}");
                            let agent = name.clone();
                            self.effects.push(Effect::Report(Event::SessionIdle { agent, session, after }));
                        }
                        idle.insert(key, since);
                    }
                }
            }
        }
        self.sessions.idle = idle;
        if let Some(left) = next {
            // It is told in milliseconds, and rounded down.
            self.observing.ask(Trigger::Idle, now.at + left + Duration::from_millis(10));
        }
    }
}
