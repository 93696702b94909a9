#!/usr/bin/env bash
# A tour of agents in a Lima virtual machine: made from nothing, killed, restarted, taken down. Most of the time goes into the
# build and the first boot.
#
#   examples/lima/run.sh            the tour; deletes the machine at its end, also on Ctrl-C
#   examples/lima/run.sh --publish  publishes the agent's image in examples/lima/published and stops: the rest is in README.md
#
# Needs Rust, and limactl, which it builds if Go is there (on macOS it installs Lima with brew). It uses a LIMA_HOME and a root
# of its own in a scratch directory: your instances are not touched. As root it runs Lima as a user of its own, since Lima
# refuses root. STEADFAST=/path/to/steadfast skips the build.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
# shellcheck source=SCRIPTDIR/../../scripts/common.sh
. "$repository/scripts/common.sh"
# shellcheck source=SCRIPTDIR/../../scripts/image.sh
. "$repository/scripts/image.sh"
# shellcheck source=SCRIPTDIR/../../scripts/lima-env.sh
. "$repository/scripts/lima-env.sh"

main() {
  case ${1:-} in
    "") tour ;;
    --publish) publish "$here/published" ;;
    *) sed -n 's/^# \{0,1\}//; 2,/^$/p' "${BASH_SOURCE[0]}" | sed '/^$/q'; exit 64 ;;
  esac
}

# publish DIR
publish() {
  local work
  work=$(mktemp -d "${TMPDIR:-/tmp}/image.XXXXXX")
  make_image localhost/hello-agent:1.0.0 1.0.0 "$work/hello.tar.gz"
  publish_agent "$1" hello localhost/hello-agent 1.0.0 "$work/hello.tar.gz"
  rm -rf "$work"
  say "published in $1"
}

tour() {
  step=0
  headline "Build steadfast"
  require_rust
  have curl || install_packages curl || die "curl is not installed" "install it, then run this again"
  local built=${STEADFAST:-}
  if [ -z "$built" ]; then
    (cd "$repository" && cargo build --release --locked)
    built=${CARGO_TARGET_DIR:-$repository/target}/release/steadfast
  fi

  headline "Find Lima, and a guest that boots here"
  if is_macos && ! have limactl; then install_packages lima || true; fi
  lima_env_install || die "there is no Lima here: $le_reason"
  trap lima_env_stop EXIT
  trap 'say; say "interrupted, cleaning up"; exit 130' INT
  trap 'exit 143' TERM
  lima_env_start
  mkdir -p "$le_dir/example"
  cp "$built" "$le_dir/example/steadfast"
  cp "$here/steadfast.yaml" "$le_dir/example/"
  lima_env_template "$le_dir/example/agents-vm.yaml"
  publish "$le_dir/example/published"
  chmod -R a+rX "$le_dir/example"

  headline "Look at the plan: what is in the machine is unknown until it runs"
  show plan
  headline "Apply: create and start the machine, load the image, start the agent, wait until it is healthy"
  show apply --timeout 30m
  visit
  headline "Apply again: nothing to do"
  show apply
  show status
  headline "Kill the agent inside the machine, and apply"
  show vm shell -- sudo podman kill vm-demo-hello
  show apply
  visit
  headline "Stop the machine, and apply: it is started, and the agent in it"
  show vm stop
  show apply --timeout 30m
  visit
  headline "Take everything down, the machine too"
  show down --vm
  lima_env_stop
  trap - EXIT
  say
  say "That was all. The state file is examples/lima/steadfast.yaml; README.md beside it goes through it by hand."
}

headline() { step=$((step + 1)); printf '\n%s. %s\n' "$step" "$1"; }

# Prints what one would type, and runs it as the machine's user.
show() {
  printf '$ steadfast %s\n' "$*"
  as_lima_user env "LIMA_EXAMPLE_TEMPLATE=$le_dir/example/agents-vm.yaml" "STEADFAST_ROOT=$le_dir/root" "STEADFAST_FILE=$le_dir/example/steadfast.yaml" \
    "$le_dir/example/steadfast" "$@"
}

visit() {
  local answer
  printf '$ curl http://127.0.0.1:18080/\n'
  answer=$(curl -fsS --noproxy '*' --retry 20 --retry-delay 1 --retry-all-errors --max-time 60 http://127.0.0.1:18080/) ||
    die "the agent does not answer on port 18080"
  printf '%s\n' "$answer"
  [ "$answer" = "hello from agent 1.0.0: good morning" ] || die "expected another answer"
}

main "$@"
