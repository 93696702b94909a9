#!/usr/bin/env bash
# Sessions in a minute, besides the build: an agent that speaks JSON lines on its standard input and output (chat.rs) is started, sent
# to, attached to, edited, and killed in every way: as the state file declares it, and by hand.
#
#   examples/sessions/run.sh        cleans up after itself, also on Ctrl-C
#
# Needs Rust, and Podman 4 or newer, which it installs if there is none. Runs as root and as a normal user. It uses a Podman of its own
# in a scratch directory. STEADFAST=/path/to/steadfast skips the build.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
# shellcheck source=SCRIPTDIR/../../scripts/common.sh
. "$repository/scripts/common.sh"
# shellcheck source=SCRIPTDIR/../../scripts/image.sh
. "$repository/scripts/image.sh"
# shellcheck source=SCRIPTDIR/../../scripts/podman-env.sh
. "$repository/scripts/podman-env.sh"

scratch="" step=0 bold="" plain=""

main() {
  if [ -t 1 ] && [ -z "${NO_COLOR:-}" ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); fi
  headline "Build steadfast, and start a private Podman"
  require_rust
  build_steadfast "$repository"
  PATH=$(dirname "$STEADFAST"):$PATH
  podman_env_install
  scratch=$(scratch_dir sfs)
  trap clean_up EXIT
  trap 'say; say "interrupted, cleaning up"; exit 130' INT
  trap 'exit 143' TERM
  podman_env_start "$scratch/podman"
  export SESSIONS_DIR=$scratch STEADFAST_FILE=$scratch/steadfast.yaml
  cp "$here/steadfast.yaml" "$STEADFAST_FILE"

  headline "Make an image with the agent in it, and apply: container and session are started"
  image
  show steadfast apply
  show steadfast session list

  headline "Send to it, and read what it says"
  show steadfast session send hello/chat '{"say": "good morning"}
'
  until_said '"number":1'
  show steadfast session logs hello/chat

  headline "Attach to it, and kill -9 whoever is attached: the session goes on"
  in_podman_ns steadfast session attach hello/chat </dev/null >"$scratch/attached" 2>/dev/null &
  local attached=$!
  sleep 1
  kill -9 "$attached"
  wait "$attached" 2>/dev/null || true
  show steadfast session send hello/chat '{"say": "still there?"}
'
  until_said '"number":2'
  show steadfast session logs hello/chat --tail 1

  headline "Make it crash: it is started again a second later, and what it said before is kept"
  show steadfast session send hello/chat '"crash"
'
  until_said 'crashing'
  show steadfast session list
  until_running
  show steadfast session send hello/chat '{"say": "welcome back"}
'
  until_said 'welcome back'
  show steadfast session logs hello/chat

  headline "Edit its command in the state file: the session is restarted, the container goes on"
  edit 's/command: \[chat\]/command: [chat, politely]/'
  show steadfast plan
  show steadfast apply
  show steadfast session list

  headline "Start one by hand beside it. What fails is started again there, too"
  show steadfast session start hello/talk --restart on-failure -- chat
  show steadfast session list

  headline "Kill the container. What the state file declares comes back; what was started by hand went with it, and says so"
  show podman --url "$CONTAINER_HOST" kill sessions-hello
  show steadfast apply
  show steadfast session list
  show steadfast session rm hello/talk

  headline "End one by the end of its input, and have its exit code"
  show steadfast session start hello/talk -- chat
  show steadfast session send hello/talk --eof '{"say": "that was all"}
'
  show steadfast session wait hello/talk
  show steadfast session logs hello/talk

  headline "Take everything down"
  show steadfast down
  clean_up
  trap - EXIT
  say
  say "That was all. The agent is examples/sessions/chat.rs; docs/sessions.md tells the rest."
}

headline() { step=$((step + 1)); printf '\n%s%s. %s%s\n' "$bold" "$step" "$1" "$plain"; }

# Prints a command as one would type it, and runs it.
show() {
  local word line=""
  for word in "$@"; do
    case $word in *[\"\ ]*) line="$line '$word'" ;; *) line="$line $word" ;; esac
  done
  printf '%s$%s%s\n' "$bold" "$(printf '%s' "$line" | sed "s|--url ${CONTAINER_HOST:-none}|--url \$CONTAINER_HOST|")" "$plain"
  in_podman_ns "$@"
}

# Edits the state file, and says how.
edit() {
  printf '%s$ sed -i %s %s%s\n' "$bold" "'$1'" steadfast.yaml "$plain"
  sed "$1" "$STEADFAST_FILE" >"$scratch/edited.yaml"
  mv "$scratch/edited.yaml" "$STEADFAST_FILE"
}

# The agent's image, with chat.rs in it.
image() {
  local target
  target=$(uname -m | sed 's/arm64/aarch64/')-unknown-linux-musl
  agent_rootfs "$scratch/rootfs" 1.0.0
  rustc --edition 2024 -O --target "$target" -C linker=rust-lld -C strip=symbols -o "$scratch/rootfs/bin/chat" "$here/chat.rs"
  make_archive "$scratch/rootfs" localhost/hello-agent:1.0.0 "$scratch/hello.tar"
  gzip -n "$scratch/hello.tar"
  publish_agent "$scratch/published" hello localhost/hello-agent 1.0.0 "$scratch/hello.tar.gz"
}

until_said() { until_so "the session says $1" eval "in_podman_ns steadfast session logs hello/chat 2>&1 | grep -qF '$1'"; }
until_running() { until_so "the session runs" eval "in_podman_ns steadfast session list | grep -q '^hello/chat  *running'"; }

until_so() {
  local what=$1 tries=0
  shift
  until "$@"; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || die "waited in vain until $what"
    sleep 0.1
  done
}

clean_up() {
  trap '' INT TERM
  podman_env_stop
  if [ -n "$scratch" ]; then rm -rf "$scratch"; fi
}

main "$@"
