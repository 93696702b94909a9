#!/usr/bin/env bash
# A tour of steadfast in five minutes, most of it the build: apply, drift and repair, an edit with its plan and replacement, down.
#
#   examples/quickstart/run.sh            the tour; cleans up after itself, also on Ctrl-C
#   examples/quickstart/run.sh --keep     stops after the first apply and leaves everything running, to try things by hand
#   examples/quickstart/run.sh --stop     removes what --keep left
#
# Needs Rust, and Podman 4 or newer, which it installs if there is none. Runs as root and as a normal user. It uses a Podman
# of its own in a scratch directory: your containers, images and configuration are not touched.
# STEADFAST=/path/to/steadfast skips the build.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
# shellcheck source=SCRIPTDIR/../../scripts/common.sh
. "$repository/scripts/common.sh"
# shellcheck source=SCRIPTDIR/../../scripts/image.sh
. "$repository/scripts/image.sh"
# shellcheck source=SCRIPTDIR/../../scripts/podman-env.sh
. "$repository/scripts/podman-env.sh"

kept=$here/.run                       # what --keep leaves: a link to the scratch directory
scratch=""
container=quickstart-hello

main() {
  case ${1:-} in
    "") tour ;;
    --keep) tour keep ;;
    --stop) stop_kept ;;
    *) sed -n 's/^# \{0,1\}//; 2,/^$/p' "${BASH_SOURCE[0]}" | sed '/^$/q'; exit 64 ;;
  esac
}

tour() {
  local keep=${1:-} bold="" plain="" step=0 file=$here/steadfast.yaml
  if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); fi
  [ ! -e "$kept" ] || die "a quickstart is already running" "remove it with: examples/quickstart/run.sh --stop"

  headline "Build steadfast"
  build

  headline "Start a private Podman"
  podman_env_install
  have curl || install_packages curl || die "curl is not installed" "install it, then run this again"
  scratch=$(scratch_dir sfq)
  trap clean_up EXIT
  trap 'say; say "interrupted, cleaning up"; exit 130' INT
  trap 'exit 143' TERM
  podman_env_start "$scratch/podman"
  export QUICKSTART_DIR=$scratch
  QUICKSTART_PORT=$(in_podman_ns bash -c ". '$repository/scripts/common.sh'; free_port 18080")
  export QUICKSTART_PORT

  headline "Make an agent image from local files and publish it in a directory"
  make_image localhost/hello-agent:1.0.0 1.0.0 "$scratch/hello.tar.gz"
  publish_agent "$scratch/published" hello localhost/hello-agent 1.0.0 "$scratch/hello.tar.gz"
  show cat "$scratch/published/vm/manifest.json"

  # A name belongs to the file it was first applied from. The tour edits its own, so that your checkout stays clean.
  if [ -z "$keep" ]; then cp "$file" "$scratch/steadfast.yaml"; file=$scratch/steadfast.yaml; fi
  headline "Apply the state file: fetch, verify, load, create, start, wait until healthy"
  show steadfast apply -f "$file"
  visit "hello from agent 1.0.0: good morning"

  if [ -n "$keep" ]; then hand_over; return; fi

  headline "Apply again: nothing to do"
  local before
  before=$(container_id)
  show steadfast apply -f "$file"
  [ "$(container_id)" = "$before" ] || die "the second apply changed the container"

  headline "Kill the agent. Podman would leave it dead; apply repairs it"
  show podman --url "$CONTAINER_HOST" kill "$container"
  wait_until_stopped
  show steadfast apply -f "$file"
  visit "hello from agent 1.0.0: good morning"

  headline "Edit one value and look at the plan"
  sed 's/GREETING: good morning/GREETING: good evening/' "$here/steadfast.yaml" >"$file"
  diff "$here/steadfast.yaml" "$file" || true
  show steadfast plan -f "$file"

  headline "Apply it: exactly this container is replaced"
  before=$(container_id)
  show steadfast apply -f "$file"
  [ "$(container_id)" != "$before" ] || die "the container was not replaced"
  visit "hello from agent 1.0.0: good evening"

  headline "Take everything down"
  show steadfast down -f "$file"
  [ -z "$(podman --url "$CONTAINER_HOST" ps -aq)" ] || die "down left containers behind"
  clean_up
  trap - EXIT
  say
  say "That was all. The state file is examples/quickstart/steadfast.yaml; examples/quickstart/run.sh --keep leaves it running."
}

headline() { step=$((step + 1)); printf '\n%s%s. %s%s\n' "$bold" "$step" "$1" "$plain"; }

# Prints a command as one would type it, and runs it where the agent's port answers.
show() {
  printf '%s$ %s%s\n' "$bold" "$(printf '%s' "$*" | sed "s|$here/|examples/quickstart/|g; s|${scratch:-none}/|\$QUICKSTART_DIR/|g; s|--url ${CONTAINER_HOST:-none}|--url \$CONTAINER_HOST|")" "$plain"
  in_podman_ns "$@"
}

build() {
  build_steadfast "$repository"
  bin_dir=$(dirname "$STEADFAST")
  PATH=$bin_dir:$PATH
  export PATH
  show steadfast --version
}

visit() {
  local answer
  printf '%s$ curl http://127.0.0.1:%s/%s\n' "$bold" "$QUICKSTART_PORT" "$plain"
  answer=$(in_podman_ns curl -fsS --noproxy '*' --retry 10 --retry-delay 1 --retry-all-errors --max-time 30 "http://127.0.0.1:$QUICKSTART_PORT/") ||
    die "the agent does not answer on port $QUICKSTART_PORT"
  printf '%s\n' "$answer"
  [ "$answer" = "$1" ] || die "expected the answer: $1"
}

container_id() { podman --url "$CONTAINER_HOST" container inspect --format '{{.Id}}' "$container"; }

wait_until_stopped() {
  local tries=0
  while [ "$(podman --url "$CONTAINER_HOST" container inspect --format '{{.State.Running}}' "$container")" = true ]; do
    tries=$((tries + 1))
    [ "$tries" -lt 50 ] || die "the agent still runs after podman kill"
    sleep 0.1
  done
}

# Leaves everything in place and says how to go on.
hand_over() {
  local enter=""
  ln -sfn "$scratch" "$kept"
  trap - EXIT INT TERM
  [ "${pe_namespace:-host}" = host ] || enter=" (from this machine's other programs the port is not reachable: it lives in a namespace of its own)"
  {
    printf 'export QUICKSTART_DIR=%q QUICKSTART_PORT=%q CONTAINER_HOST=%q\n' "$scratch" "$QUICKSTART_PORT" "$CONTAINER_HOST"
    if [ -n "${CONTAINERS_CONF:-}" ]; then printf 'export CONTAINERS_CONF=%q\n' "$CONTAINERS_CONF"; fi
    printf 'export PATH=%q:"$PATH"\n' "$bin_dir"
  } >"$scratch/env"
  cat >&2 <<TEXT

The agent is running on port $QUICKSTART_PORT$enter. To go on by hand:

  . examples/quickstart/.run/env
  steadfast status -f examples/quickstart/steadfast.yaml
  steadfast apply -f examples/quickstart/steadfast.yaml
  podman --url "\$CONTAINER_HOST" ps

When you are done: examples/quickstart/run.sh --stop
TEXT
}

stop_kept() {
  [ -e "$kept" ] || die "no quickstart is running" "examples/quickstart/run.sh --keep starts one"
  scratch=$(cd "$kept" && pwd -P)
  podman_env_attach "$scratch/podman" || say "its Podman is gone already"
  clean_up
}

clean_up() {
  trap '' INT TERM
  podman_env_stop
  if [ -n "$scratch" ]; then rm -rf "$scratch"; fi
  if [ -L "$kept" ]; then rm -f "$kept"; fi
}

bin_dir=""
main "$@"
