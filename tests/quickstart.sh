#!/usr/bin/env bash
# The quickstart's whole tour; and what `examples/quickstart/run.sh --keep` tells people to do, word for word, in a shell of its
# own; with a $TMPDIR whose path is as long as some systems have it. STEADFAST names the program. Leaves nothing behind.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/.." && pwd)
cd "$repository"
# shellcheck source=SCRIPTDIR/../scripts/common.sh
. scripts/common.sh

[ ! -e examples/quickstart/.run ] || die "a quickstart is already running" "remove it with: examples/quickstart/run.sh --stop"
work=$(scratch_dir sfk)
trap 'examples/quickstart/run.sh --stop >/dev/null 2>&1 || true; rm -rf "$work"' EXIT
export TMPDIR=$work/a-path-that-is-longer-than-a-run-root-of-podman-may-be
mkdir -p "$TMPDIR"

examples/quickstart/run.sh >"$work/said" 2>&1 || { cat "$work/said"; die "the tour failed"; }
grep -q 'That was all' "$work/said" || { cat "$work/said"; die "the tour did not come to its end"; }
examples/quickstart/run.sh --keep >"$work/said" 2>&1 || { cat "$work/said"; die "the quickstart failed"; }
# What it says one can type stands indented at the end.
sed -n '/To go on by hand:/,$ s/^  //p' "$work/said" >"$work/typed"
[ "$(wc -l <"$work/typed")" -ge 4 ] || { cat "$work/said"; die "the quickstart does not say how to go on"; }
printf 'typing:\n%s\n' "$(cat "$work/typed")"
bash -euo pipefail -c 'unset STEADFAST; . "$0"' "$work/typed" >"$work/answered" 2>&1 || { cat "$work/answered"; die "what the quickstart tells people to type fails"; }
cat "$work/answered"
grep -q 'nothing to do' "$work/answered" || die "apply by hand found something to do"
grep -q 'quickstart-hello' "$work/answered" || die "podman by hand does not see the agent"
case :$(bash -c '. examples/quickstart/.run/env; printf %s "$PATH"'): in *::*) die "the environment puts the working directory into the PATH" ;; esac

# Podman restarts what dies, which it does not where its run root is too long.
# shellcheck disable=SC2016 # expanded by the inner shell
bash -euo pipefail -c '
  . examples/quickstart/.run/env
  podman --url "$CONTAINER_HOST" run --detach --name dies --restart always --entrypoint /bin/false localhost/hello-agent:1.0.0 >/dev/null
  tries=0
  until [ "$(podman --url "$CONTAINER_HOST" container inspect --format "{{.RestartCount}}" dies)" -gt 0 ]; do
    tries=$((tries + 1)); [ "$tries" -lt 100 ] || exit 1; sleep 0.1
  done
  podman --url "$CONTAINER_HOST" rm --force --time 0 dies >/dev/null
' || die "the quickstart's Podman restarts nothing"

examples/quickstart/run.sh --stop
[ ! -e examples/quickstart/.run ] || die "--stop left its link behind"
