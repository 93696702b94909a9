# shellcheck shell=bash
# An S3-compatible store for tests and examples: versitygw, built from pinned sources. Sourced, after common.sh.

STORE_ENV_LIBRARY_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# store_env_install: sets `se_versitygw` to the program. Fails with a reason in `se_reason`.
store_env_install() {
  local tools=$STORE_ENV_LIBRARY_DIR/../tests/store/tools version prefix work
  version=$(awk '$1 == "require" && $2 ~ /versitygw$/ { print $3 }' "$tools/go.mod")
  prefix=$(tools_dir)/versitygw-$version
  se_versitygw=$prefix/versitygw
  [ ! -x "$se_versitygw" ] || return 0
  have go || [ ! -x /usr/local/go/bin/go ] || PATH=$PATH:/usr/local/go/bin
  if ! have go && is_macos; then install_packages go || true; fi
  have go || { se_reason="there is neither a versitygw nor a Go to build it with"; return 1; }
  say "building versitygw $version into $prefix"
  mkdir -p "$prefix"
  work=$(mktemp -d "$prefix/build.XXXXXX")
  cp "$tools"/* "$work/"
  if ! (cd "$work" && CGO_ENABLED=0 GOBIN=$work/bin go install -ldflags "-s -w" github.com/versity/versitygw/cmd/versitygw) \
    >"$work/log" 2>&1; then
    tail -n 5 "$work/log" >&2
    se_reason="versitygw could not be built with $(go version | cut -d' ' -f3)"
    rm -rf "$work"
    return 1
  fi
  mv "$work/bin/versitygw" "$se_versitygw"
  rm -rf "$work"
}
