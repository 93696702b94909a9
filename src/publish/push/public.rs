//! Reading back as everybody does: through whatever stands before the store.

use std::time::{Duration, Instant};

use super::{Placed, Push, PushError, PushEvent};
use crate::backend::http::{Ask, Client, Status};
use crate::model::manifest::MAX_MANIFEST_BYTES;
use crate::model::{Location, Manifest};
use crate::trust::MAX_SIGNATURE_BYTES;

/// Between two observations, at first and at last.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// Reads the manifest until it is what was published (or what somebody else made of it), and asks for each tarball.
pub(super) async fn read_back(
    push: &Push<'_>,
    placed: &Placed,
    at: &Location,
    patience: Duration,
    said: &(dyn Fn(PushEvent) + Send + Sync),
) -> Result<(), PushError> {
    let client = Client::new(Duration::from_secs(10), Duration::from_secs(30));
    let began = Instant::now();
    let mut pause = FIRST_PAUSE;
    loop {
        let why = match read(&client, at, MAX_MANIFEST_BYTES).await {
            // An old signature beside it would have everybody refuse it.
            Ok(bytes) if bytes == placed.bytes => match &placed.signature {
                None => break,
                Some((text, ..)) => match read(&client, &at.signature(), MAX_SIGNATURE_BYTES).await {
                    Ok(there) if there == *text => break,
                    Ok(_) => "still has another signature beside it".to_owned(),
                    Err(why) => format!("has no signature beside it: {why}"),
                },
            },
            Ok(bytes) => match Manifest::parse(&bytes) {
                Ok(manifest) if push.inputs.stand_in(&manifest) => break,
                Ok(manifest) => {
                    format!("is still the one updated at {}", crate::model::ids::clean(&manifest.updated_at, 40))
                }
                Err(err) => format!("is not a manifest: {err}"),
            },
            Err(why) => format!("cannot be read: {why}"),
        };
        if began.elapsed() + pause > patience {
            return Err(PushError::NotPublic { at: at.to_string(), why });
        }
        if pause == FIRST_PAUSE {
            said(PushEvent::Waiting);
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
    for tarball in push.inputs.tarballs() {
        let at = at.artifact(&tarball.key);
        let why = match client.get(&at, &Ask::default()).await {
            Ok(answer) if answer.status == Status::Whole => match answer.length {
                Some(length) if length != tarball.hashed.size_bytes => {
                    format!("has {length} bytes instead of {}", tarball.hashed.size_bytes)
                }
                _ => continue,
            },
            Ok(_) => "is not sent whole".to_owned(),
            Err(failure) => format!("cannot be read: {}", failure.cause),
        };
        return Err(PushError::NotPublic { at: at.to_string(), why });
    }
    Ok(())
}

async fn read(client: &Client, at: &Location, most: usize) -> Result<Vec<u8>, String> {
    let answer = client.get(at, &Ask::default()).await.map_err(|failure| failure.cause)?;
    if answer.status != Status::Whole {
        return Err("the server did not send all of it".to_owned());
    }
    let bytes = answer.body.at_most(most).await.map_err(|failure| failure.cause)?;
    bytes.ok_or_else(|| format!("it is larger than {}", crate::sizes::limit(most)))
}
