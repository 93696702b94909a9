//! The calls of [`crate::backend::Engine`] that one Podman hands on to another as they are.

/// Each of them, by `$to!(self, call(arguments))`, for the body of an `impl Engine`. What is left for it to say by itself:
/// `look`, `machine`, `exec_end` and `container_exits`.
macro_rules! hand_on {
    ($to:ident) => {
        async fn inspect(&self, id: &ContainerId) -> Result<Option<ContainerState>, EngineError> {
            $to!(self, inspect(id))
        }

        async fn images(&self) -> Result<Images, EngineError> {
            $to!(self, images())
        }

        async fn named(&self, name: &ContainerName) -> Result<Option<ContainerState>, EngineError> {
            $to!(self, named(name))
        }

        async fn image(&self, reference: &ImageRef) -> Result<Option<ImageId>, EngineError> {
            $to!(self, image(reference))
        }

        async fn has_agents(&self, image: &ImageId) -> Result<bool, EngineError> {
            $to!(self, has_agents(image))
        }

        async fn room(&self) -> Result<Option<u64>, EngineError> {
            $to!(self, room())
        }

        async fn image_facts(&self, image: &str) -> Result<Option<ImageFacts>, EngineError> {
            $to!(self, image_facts(image))
        }

        async fn load(&self, tar: ByteStream) -> Result<Vec<String>, EngineError> {
            $to!(self, load(tar))
        }

        async fn pull(&self, reference: &ImageRef, progress: Arc<Progress>) -> Result<ImageId, EngineError> {
            $to!(self, pull(reference, progress))
        }

        async fn tag(&self, image: &ImageId, reference: &ImageRef) -> Result<(), EngineError> {
            $to!(self, tag(image, reference))
        }

        async fn remove_image(&self, image: &ImageId) -> Result<(), EngineError> {
            $to!(self, remove_image(image))
        }

        async fn create(&self, create: &Create) -> Result<ContainerId, EngineError> {
            $to!(self, create(create))
        }

        async fn start(&self, id: &ContainerId) -> Result<(), EngineError> {
            $to!(self, start(id))
        }

        async fn unpause(&self, id: &ContainerId) -> Result<(), EngineError> {
            $to!(self, unpause(id))
        }

        async fn stop(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
            $to!(self, stop(id, grace))
        }

        async fn rename(&self, id: &ContainerId, name: &ContainerName) -> Result<(), EngineError> {
            $to!(self, rename(id, name))
        }

        async fn remove(&self, id: &ContainerId, grace: Duration) -> Result<(), EngineError> {
            $to!(self, remove(id, grace))
        }

        async fn shared(&self) -> Result<SharedState, EngineError> {
            $to!(self, shared())
        }

        async fn create_network(&self, make: &MakeNetwork) -> Result<(), EngineError> {
            $to!(self, create_network(make))
        }

        async fn create_volume(&self, make: &MakeVolume) -> Result<(), EngineError> {
            $to!(self, create_volume(make))
        }

        async fn remove_network(&self, name: &str) -> Result<(), EngineError> {
            $to!(self, remove_network(name))
        }

        async fn remove_volume(&self, name: &str) -> Result<(), EngineError> {
            $to!(self, remove_volume(name))
        }

        async fn run_healthcheck(&self, id: &ContainerId) -> Result<(), EngineError> {
            $to!(self, run_healthcheck(id))
        }

        async fn exec(&self, id: &ContainerId, request: &ExecRequest) -> Result<Exec, EngineError> {
            $to!(self, exec(id, request))
        }

        async fn exec_resize(&self, exec: &str, size: TermSize) -> Result<(), EngineError> {
            $to!(self, exec_resize(exec, size))
        }

        async fn exec_exit(&self, exec: &str) -> Result<i32, EngineError> {
            $to!(self, exec_exit(exec))
        }

        async fn put(&self, id: &ContainerId, directory: &str, tar: ByteStream) -> Result<(), EngineError> {
            $to!(self, put(id, directory, tar))
        }

        async fn logs(&self, id: &ContainerId, request: &LogRequest) -> Result<Chunks, EngineError> {
            $to!(self, logs(id, request))
        }

        async fn log_lines(
            &self,
            id: &ContainerId,
            request: &LogRequest,
            since: Option<u64>,
        ) -> Result<LogLines, EngineError> {
            $to!(self, log_lines(id, request, since))
        }

        async fn events(&self, owner: &Ownership) -> Result<Events, EngineError> {
            $to!(self, events(owner))
        }

        async fn ping(&self) -> Result<(), EngineError> {
            $to!(self, ping())
        }
    };
}
pub(super) use hand_on;
