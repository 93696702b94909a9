#!/usr/bin/env bash
# Plays whatever may happen to a `run`, drawn from seeds, under a virtual clock (tests/simulate). What does not hold prints the
# shortest schedule that shows it, and the command that plays its seed again.
#
#   scripts/simulate.sh --seed N                  one seed
#   scripts/simulate.sh [--seeds COUNT] [--from N]  so many from N on; 10000 from 0 on
#   scripts/simulate.sh --faults [NAME]           faults that are put into the core, or only this one: each must be found
set -euo pipefail

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck source=SCRIPTDIR/common.sh
. "$repository/scripts/common.sh"

number() { case ${2:-} in '' | *[!0-9]*) die "$1 wants a number, not \`${2:-}\`" "scripts/simulate.sh --seeds 10000" ;; esac; }

test=whatever_happens
export STEADFAST_SIMULATE_SEEDS=10000
while [ $# -gt 0 ]; do
  case $1 in
    --seed) number "$@"; export STEADFAST_SIMULATE_SEED=$2; shift 2 ;;
    --seeds) number "$@"; export STEADFAST_SIMULATE_SEEDS=$2; shift 2 ;;
    --from) number "$@"; export STEADFAST_SIMULATE_FROM=$2; shift 2 ;;
    --faults) test=each_fault; shift; if [ $# -gt 0 ]; then export STEADFAST_SIMULATE_FAULT=$1; shift; fi ;;
    -h | --help) sed -n '2,7s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"; exit ;;
    *) die "no option is called \`$1\`" "scripts/simulate.sh --help" ;;
  esac
done
require_rust
cd "$repository"
# Unoptimised it takes four times as long.
cargo test --config 'profile.dev.package.steadfast.opt-level=1' --locked --all-features --quiet --test simulate -- "$test" --nocapture
