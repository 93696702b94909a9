//! Connections to keepers that are kept open, so that input gets to a session without a command of Podman's for each.

use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::talk::new_id;
use super::{Keeper, Link, SendOptions, SessionError};
use crate::backend::Engine;
use crate::model::ContainerId;

/// How long one is kept that nobody uses: less than the silence that a keeper bears.
const IDLE: Duration = Duration::from_secs(45);
/// How many are kept.
const MOST: usize = 64;

/// Connections that nobody uses now.
#[derive(Default)]
pub struct Pool {
    idle: Mutex<Vec<Idle>>,
}

struct Idle {
    container: ContainerId,
    session: String,
    link: Link,
    since: Instant,
}

impl std::fmt::Debug for Pool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pool").finish_non_exhaustive()
    }
}

impl Pool {
    /// As [`Keeper::send`], over a connection that is there, if there is one.
    ///
    /// # Errors
    /// See [`Keeper::send`].
    pub async fn send<E: Engine>(
        &self,
        keeper: &Keeper<'_, E>,
        session: &str,
        bytes: &[u8],
        options: &SendOptions,
    ) -> Result<u64, SessionError> {
        let kept = self.take(keeper, session).await;
        let mut link = match kept {
            Some(link) => link,
            None => match keeper.connect(session).await {
                Ok(link) => link,
                Err(err) => return Err(keeper.in_words(session, err).await),
            },
        };
        let id = options.id.clone().unwrap_or_else(new_id);
        match keeper.send_over(&mut link, &id, bytes, options, options.timeout).await {
            Ok(sent) => {
                self.keep(keeper, session, link).await;
                Ok(sent)
            }
            // It may have been an old one.
            Err(err) if err.is_of_transport() => {
                keeper.send(session, bytes, &SendOptions { id: Some(id), ..options.clone() }).await
            }
            Err(err) => Err(keeper.in_words(session, err).await),
        }
    }

    async fn take<E: Engine>(&self, keeper: &Keeper<'_, E>, session: &str) -> Option<Link> {
        let mut idle = self.idle.lock().await;
        idle.retain(|one| one.since.elapsed() < IDLE);
        let found = idle.iter().position(|one| one.container == keeper.container && one.session == session)?;
        Some(idle.swap_remove(found).link)
    }

    async fn keep<E: Engine>(&self, keeper: &Keeper<'_, E>, session: &str, link: Link) {
        let mut idle = self.idle.lock().await;
        if idle.len() < MOST {
            let (container, session) = (keeper.container.clone(), session.to_owned());
            idle.push(Idle { container, session, link, since: Instant::now() });
        }
    }
}
