//! Sends the files that a manifest names, before the manifest.

use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::{FILES, NO_ETAG, Push, PushError, PushEvent};
use crate::backend::Progress;
use crate::model::labels::DIGEST_SIDECAR;
use crate::model::manifest::MAX_MANIFEST_BYTES;
use crate::publish::dist::{self, Hashed};
use crate::publish::manifest::Tarball;
use crate::publish::store::{About, Condition, Head, IMMUTABLE, Local, ObjectKey, Put, Sent};

impl Push<'_> {
    pub(super) async fn send_all(
        &self,
        said: &(dyn Fn(PushEvent) + Send + Sync),
    ) -> Result<Vec<(ObjectKey, Sent)>, PushError> {
        let send = |tarball: &Tarball| {
            let key = ObjectKey::from(&tarball.key);
            let Tarball { path, hashed, .. } = tarball;
            let file = Local { path: path.clone(), sha256: hashed.sha256, size_bytes: hashed.size_bytes };
            let content_type = match path.extension().is_some_and(|ending| ending == "zst") {
                true => "application/zstd",
                false => "application/gzip",
            };
            async move {
                let sent = if self.store.has(&key, &file).await? {
                    Sent::AlreadyThere
                } else {
                    // Somebody else may have published it since.
                    if let Some(now) = self.store.get(&ObjectKey::manifest(), MAX_MANIFEST_BYTES).await? {
                        self.keeps_what_is_named(&now.bytes)?;
                    }
                    let progress = Progress::new(file.size_bytes);
                    said(PushEvent::Sending(key.clone(), Arc::clone(&progress)));
                    let about = About { content_type, cache_control: IMMUTABLE };
                    self.store.send(&key, &file, about, &progress).await?
                };
                said(PushEvent::Sent(key.clone(), sent));
                Ok::<_, PushError>((key, sent))
            }
        };
        let sends: Vec<_> = self.inputs.tarballs().map(send).collect();
        let mut sends = stream::iter(sends).buffered(FILES);
        let mut sent = Vec::new();
        while let Some(one) = sends.next().await {
            sent.push(one?);
        }
        Ok(sent)
    }

    /// What the manifest names is there as it was sent: nobody has put other bytes in its place.
    pub(super) async fn all_are_there(&self) -> Result<(), PushError> {
        let look = |tarball: &Tarball| {
            let key = ObjectKey::from(&tarball.key);
            let Hashed { sha256, size_bytes, .. } = tarball.hashed;
            async move {
                match self.store.head(&key).await? {
                    Some(head) if head == (Head { size_bytes, sha256: Some(sha256) }) => Ok(()),
                    _ => Err(PushError::TarballLost(key)),
                }
            }
        };
        let looks: Vec<_> = self.inputs.tarballs().map(look).collect();
        let mut looks = stream::iter(looks).buffered(2 * FILES);
        while let Some(look) = looks.next().await {
            look?;
        }
        Ok(())
    }

    /// The list of members that the manifest names, and the digest for whoever loads a tarball by hand. With the first digest it is
    /// tried whether the store knows conditions: it is there, and stays what it is.
    pub(super) async fn send_sidecars(&self) -> Result<(), PushError> {
        let mut is_tried = !self.store.is_remote();
        for tarball in self.inputs.tarballs() {
            if let (Some(key), Some(sha256)) = (tarball.layers_key(), tarball.hashed.layers) {
                let path = dist::layers_path(&tarball.path);
                let size_bytes = std::fs::metadata(&path).map_err(|err| PushError::unreadable(&path, &err))?.len();
                let key = ObjectKey::new(key).map_err(PushError::Key)?;
                let about = About { content_type: "application/json", cache_control: IMMUTABLE };
                let file = Local { path, sha256, size_bytes };
                if !self.store.has(&key, &file).await? {
                    self.store.send(&key, &file, about, &Progress::new(size_bytes)).await?;
                }
            }
            let text = dist::sidecar(&tarball.hashed.sha256, &tarball.path);
            let key = ObjectKey::from(&tarball.key).with(DIGEST_SIDECAR);
            let about = About { content_type: "text/plain; charset=utf-8", cache_control: IMMUTABLE };
            let there = self.store.get(&key, 4096).await?;
            if there.is_none_or(|there| there.bytes != text.as_bytes()) {
                self.store.put(&key, text.as_bytes(), about, Condition::Always).await?;
            }
            if !is_tried {
                is_tried = true;
                for (when, name) in [(Condition::Absent, "If-None-Match"), (Condition::Unchanged(NO_ETAG), "If-Match")]
                {
                    if self.store.put(&key, text.as_bytes(), about, when).await? != Put::Refused {
                        return Err(PushError::IgnoresConditions(name));
                    }
                }
            }
        }
        Ok(())
    }
}
