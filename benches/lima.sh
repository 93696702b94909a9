#!/usr/bin/env bash
# Measures steadfast with a Lima virtual machine of its own, beside limactl and beside a Podman of this host, and prints one
# markdown table. The VM is run by whatever the machine has (KVM, vz, or plain emulation), and the table says by what.
#
#   benches/lima.sh                    the table; three quarters of an hour where the VM is emulated
#   benches/lima.sh --quick            a smaller tarball and 2 rounds: to see that it works, not to quote
#   benches/lima.sh --full             makes the VM from nothing twice
#   benches/lima.sh --rows load,lost   only these rows (--list names them)
#   benches/lima.sh --rounds 7         rounds per row, except for making the VM; the contestants take turns within each
#   benches/lima.sh --out FILE         writes the table there as well
#   benches/lima.sh --docs             writes the table, when it was measured as a whole, into docs/benchmarks.md
#
# Linux, as root or as a normal user, and macOS. Installs what scripts/lima-env.sh and scripts/podman-env.sh need and says so.
# STEADFAST=/path/to/steadfast skips the build.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/.." && pwd)
# shellcheck source=SCRIPTDIR/../scripts/common.sh
. "$repository/scripts/common.sh"
# shellcheck source=SCRIPTDIR/../scripts/image.sh
. "$repository/scripts/image.sh"
# shellcheck source=SCRIPTDIR/../scripts/podman-env.sh
. "$repository/scripts/podman-env.sh"
# shellcheck source=SCRIPTDIR/../scripts/lima-env.sh
. "$repository/scripts/lima-env.sh"

# Half of the big image compresses like programs do, half does not: together about 200 MB.
half=145
out="" docs="" scratch="" work=""

main() {
  local status=0
  have python3 || install_packages python3 || die "python3 is not installed"
  case " $* " in *" --list "* | *" --help "* | *" -h "*) exec python3 -B "$here/lima.py" "$@" ;; esac
  take_options "$@"
  podman_env_install
  lima_env_install || die "no Lima here: $le_reason"
  build_steadfast "$repository"
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  scratch=$(mktemp -d "${TMPDIR:-/tmp}/sfb.XXXXXX")
  podman_env_start "$scratch/p"
  lima_env_start
  prepare
  as_lima_user env BENCH_SCRATCH="$work" BENCH_SCRIPTS="$work/scripts" BENCH_TEMPLATE="$work/agents-vm.yaml" BENCH_ACCELERATOR="$le_accelerator" \
    STEADFAST="$work/steadfast" CONTAINER_HOST="$CONTAINER_HOST" python3 -B "$work/benches/lima.py" ${flags[@]+"${flags[@]}"} >"$scratch/table" || status=$?
  cat "$scratch/table"
  if [ -s "$scratch/table" ]; then keep_table; fi
  return "$status"
}

# What is done with the table is for whoever started this: the Lima user may not write there.
take_options() {
  flags=()
  while [ $# -gt 0 ]; do
    case $1 in
      --out) out=${2:-}; [ -n "$out" ] || die "--out needs a file"; shift ;;
      --out=*) out=${1#--out=} ;;
      --docs) docs=yes ;;
      --quick) half=15; flags+=("$1") ;;
      *) flags+=("$1") ;;
    esac
    shift
  done
  case "$docs ${flags[*]:-}" in "yes "*--rows*) die "--docs writes a whole table into docs/benchmarks.md, and --rows measures a part" ;; esac
}

# What the Lima user needs goes where he can read it: the tree may be closed to him.
prepare() {
  work=$le_dir/b
  mkdir -p "$work/benches" "$work/scripts"
  cp "$here"/*.py "$work/benches/"
  cp "$repository"/scripts/*.sh "$work/scripts/"
  cp "$STEADFAST" "$work/steadfast"
  lima_env_template "$work/agents-vm.yaml"
  make_image localhost/bench-agent:1 1 "$work/bench-agent.tar.gz"
  say "making a big image"
  big_rootfs "$work/rootfs" "$half" "$half"
  make_archive "$work/rootfs" localhost/big:1 "$work/big.tar"
  gzip -n "$work/big.tar"
  rm -r "$work/rootfs"
  if is_root; then
    chown -R "$LIMA_ENV_USER:" "$work"
    # He alone may use this host's Podman, too.
    chmod 0711 "$scratch"
    chown "$LIMA_ENV_USER:" "$pe_socket"
  fi
}

keep_table() {
  if [ -n "$out" ]; then cp "$scratch/table" "$out"; fi
  if [ -n "$docs" ]; then
    (cd "$here" && python3 -B -c 'import bench, sys; bench.put_into_docs("lima", sys.stdin.read())' <"$scratch/table")
  fi
}

clean_up() {
  trap '' INT TERM
  lima_env_stop
  podman_env_stop
  if [ -n "$scratch" ]; then rm -rf "$scratch"; fi
}

main "$@"
