#!/usr/bin/env bash
# A test target that needs a Podman, or some of its tests, in a private Podman that lasts as long.
#
#   tests/one.sh TARGET [FILTER…]     TARGET: podman apply publish background truth workspaces faults; FILTER and flags as behind `cargo test --`
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=SCRIPTDIR/../scripts/common.sh
. "$repository/scripts/common.sh"
# shellcheck source=SCRIPTDIR/../scripts/image.sh
. "$repository/scripts/image.sh"
# shellcheck source=SCRIPTDIR/../scripts/podman-env.sh
. "$repository/scripts/podman-env.sh"
# shellcheck source=SCRIPTDIR/../scripts/store-env.sh
. "$repository/scripts/store-env.sh"

[ $# -gt 0 ] || die "usage: tests/one.sh TARGET [FILTER…]"
target=$1
shift
cd "$repository"
require_rust
podman_env_install
install_busybox || true
have git || install_packages git || true
case $target in publish) if store_env_install; then export STEADFAST_TEST_VERSITYGW=$se_versitygw; else say "no store: $se_reason"; fi ;; esac
# Compiled outside, since private namespaces have no network.
cargo test --locked --all-features --no-run --test "$target"
scratch=$(scratch_dir sft)
trap 'trap "" INT TERM; podman_env_stop; rm -rf "$scratch"' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
podman_env_start "$scratch/p"
podman_env_test_variables
in_podman_ns cargo test --locked --all-features --no-fail-fast --test "$target" -- "$@"
