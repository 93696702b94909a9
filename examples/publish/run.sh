#!/usr/bin/env bash
# A publisher's tour in a minute, most of it the build: bundle, tarballs, smoke, key, push, a signed apply, a new version, and a
# rollback that is refused. It runs the commands of docs/tutorial-publishing.md, one after another, as they stand there.
#
#   examples/publish/run.sh       the tour; cleans up after itself, also on Ctrl-C
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

scratch=""

main() {
  [ $# -eq 0 ] || { sed -n 's/^# \{0,1\}//; 2,/^$/p' "${BASH_SOURCE[0]}" | sed '/^$/q'; exit 64; }
  build_steadfast "$repository"
  podman_env_install
  have curl || install_packages curl || die "curl is not installed" "install it, then run this again"
  scratch=$(scratch_dir sfp)
  trap clean_up EXIT
  trap 'say; say "interrupted, cleaning up"; exit 130' INT
  trap 'exit 143' TERM
  podman_env_start "$scratch/podman"
  mkdir -p "$scratch/tour/public"
  agent_rootfs "$scratch/tour/hello/rootfs" 1.0.0
  mkdir -p "$scratch/bin"
  ln -s "$STEADFAST" "$scratch/bin/steadfast"
  PATH=$scratch/bin:$PATH
  ARCH=$(host_arch)
  AGENT_PORT=$(in_podman_ns bash -c ". '$repository/scripts/common.sh'; free_port 18081")
  local port
  port=$(in_podman_ns bash -c ". '$repository/scripts/common.sh'; free_port 18181")
  PUBLIC_URL=http://127.0.0.1:$port
  export PATH ARCH AGENT_PORT PUBLIC_URL no_proxy=127.0.0.1
  unset STEADFAST_FILE STEADFAST_ROOT STEADFAST_MANIFEST_URL STEADFAST_SIGNING_KEY STEADFAST_SIGNING_PASSWORD SOURCE_DATE_EPOCH
  serve "$port"
  # Every block that is shell, in their order.
  awk '/^```/ { inside = ($0 == "```sh"); next } inside' "$repository/docs/tutorial-publishing.md" >"$scratch/commands"
  [ -s "$scratch/commands" ] || die "docs/tutorial-publishing.md has no commands"
  # `-v` prints each line as it is read.
  (cd "$scratch/tour" && in_podman_ns bash -euo pipefail -v "$scratch/commands")
  clean_up
  trap - EXIT
  say
  say "That was all. The commands stand in docs/tutorial-publishing.md."
}

# Serves the published directory, where the agent's port answers.
serve() {
  local busybox tries=0
  if ! is_macos && install_busybox; then
    busybox=$(static_busybox)
    serve_by "$busybox" httpd -f -p "127.0.0.1:$1" -h "$scratch/tour/public"
  else
    have python3 || install_packages python3 || die "nothing here serves files: neither busybox nor python3"
    serve_by python3 -m http.server --bind 127.0.0.1 --directory "$scratch/tour/public" "$1"
  fi
  until in_podman_ns curl -s --noproxy '*' -o /dev/null "http://127.0.0.1:$1/"; do
    tries=$((tries + 1))
    [ "$tries" -lt 100 ] || die "the published directory is not served"
    sleep 0.1
  done
}

# Starts a server, and notes its own pid: between it and us are what enters the namespaces.
serve_by() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  in_podman_ns sh -c 'echo $$ >"$0"; exec "$@"' "$scratch/server" "$@" >/dev/null 2>&1 &
}

clean_up() {
  trap '' INT TERM
  if [ -s "$scratch/server" ]; then kill "$(cat "$scratch/server")" 2>/dev/null || true; fi
  podman_env_stop
  if [ -n "$scratch" ]; then rm -rf "$scratch"; fi
}

main "$@"
