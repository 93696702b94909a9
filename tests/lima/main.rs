//! The suite in a real VM. Built with `--features lima-tests`, run by the stage `lima` of `tests/run.sh` as a user whom
//! limactl accepts, one test after another:
//!
//! * `STEADFAST_TEST_LIMACTL`: the limactl to call.
//! * `STEADFAST_TEST_LIMA_HOME`: a `LIMA_HOME` with a short path, in which tests may make instances.
//! * `STEADFAST_TEST_LIMA_TEMPLATE`: `template/agents-vm.yaml` with an image that boots here.
//! * `STEADFAST_TEST_BIN`: the `steadfast` under test.

mod instance;
mod template;
