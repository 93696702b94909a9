# shellcheck shell=bash
# What every script of this repository needs: messages, downloads of packages, free ports, digests.
# Sourced, never run. Nothing here knows about Podman (podman-env.sh) or images (image.sh).
# Written for bash 3.2, since that is what macOS has.

say() { printf '%s\n' "$*" >&2; }
die() { printf 'error: %s\n' "$1" >&2; if [ $# -gt 1 ]; then printf 'hint: %s\n' "$2" >&2; fi; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
is_macos() { [ "$(uname -s)" = Darwin ]; }
is_root() { [ "$(id -u)" -eq 0 ]; }

# as_root CMD…: directly when we are root, else through sudo. Fails without a question when sudo would need a password and
# nobody is there to type it.
as_root() {
  if is_root; then "$@"; return; fi
  have sudo || return 1
  if [ -t 0 ]; then sudo "$@"; else sudo -n "$@"; fi
}
can_be_root() { is_root || { have sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }; }; }

# The package manager of this machine: apt-get, dnf, brew, or nothing.
package_manager() {
  local each
  for each in apt-get dnf brew; do if have "$each"; then printf '%s' "$each"; return; fi; done
}

package_installed() {
  case $(package_manager) in
    apt-get) [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ] ;;
    dnf) rpm -q "$1" >/dev/null 2>&1 ;;
    brew) brew list "$1" >/dev/null 2>&1 ;;
    *) return 1 ;;
  esac
}

package_offered() {
  case $(package_manager) in
    apt-get) [ -n "$(apt-cache madison "$1" 2>/dev/null)" ] ;;
    *) return 0 ;;
  esac
}

# install_packages PACKAGE…: installs those which are not there yet and which the distribution knows. Says what it installs.
# Returns 1, after a message, when something is missing and cannot be installed.
install_packages() {
  local manager missing="" each
  manager=$(package_manager)
  for each in "$@"; do package_installed "$each" || missing="$missing $each"; done
  [ -n "$missing" ] || return 0
  if [ -z "$manager" ]; then say "missing here:$missing (no apt-get, dnf or brew to install them with)"; return 1; fi
  if [ "$manager" != brew ] && ! can_be_root; then
    say "missing here:$missing (not root, and sudo is not available without a password)"
    return 1
  fi
  # A machine that was just made has no package lists, and then nothing is on offer.
  if [ "$manager" = apt-get ]; then
    for each in $missing; do
      if ! package_offered "$each"; then say "refreshing the package lists"; as_root apt-get update -qq >&2 || true; break; fi
    done
    set --
    for each in $missing; do if package_offered "$each"; then set -- "$@" "$each"; fi; done
    [ $# -gt 0 ] || return 0
    say "installing with apt-get: $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null </dev/null
    return
  fi
  say "installing with $manager:$missing"
  # shellcheck disable=SC2086 # a list of package names
  case $manager in
    dnf) as_root dnf install -y -q --setopt=install_weak_deps=False $missing >&2 </dev/null ;;
    brew) brew install --quiet $missing >&2 </dev/null ;;
  esac
}

# The directory for tools that are kept between runs, outside of the tree.
tools_dir() { printf '%s' "${XDG_CACHE_HOME:-$HOME/.cache}/steadfast-tools"; }

# unpacked PACKAGE PATH: prints where PATH of a Debian package is after unpacking it into the tools directory. It is not
# installed, since that would need root and might start a service.
unpacked() {
  local dir work
  dir=$(tools_dir)/$1
  if [ ! -e "$dir/$2" ]; then
    have apt-get && have dpkg-deb || return 1
    work=$(mktemp -d "${TMPDIR:-/tmp}/deb.XXXXXX")
    package_offered "$1" || as_root apt-get update -qq >&2 || true
    say "unpacking $1 into $dir"
    # shellcheck disable=SC2015 # every failure ends in the same place
    (cd "$work" && apt-get download -qq "$1" >/dev/null 2>&1 && mkdir -p "$dir" && dpkg-deb -x ./*.deb "$dir") || true
    rm -rf "$work"
  fi
  [ -e "$dir/$2" ] && printf '%s' "$dir/$2"
}

# require_rust: cargo, or a sentence that says where to get it. Rust is not installed behind anybody's back.
require_rust() {
  if ! have cargo && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"; fi
  have cargo || die "Rust is not installed: there is no \`cargo\` in PATH" "install it from https://rustup.rs, then run this again"
  have cc || have gcc || have clang || install_packages gcc libc6-dev || die "Rust needs a C linker, and there is no \`cc\` in PATH"
  # rust-toolchain.toml asks rustup for the stable channel. Where another toolchain is there and that one is not, it serves as well:
  # downloading one may take long, and offline it fails. How old it may be is for `rust-version` in Cargo.toml to say.
  if have rustup && [ -z "${RUSTUP_TOOLCHAIN:-}" ] && ! rustup toolchain list 2>/dev/null | grep -q '^stable-'; then
    RUSTUP_TOOLCHAIN=$(rustup default 2>/dev/null | cut -d ' ' -f 1)
    if [ -n "$RUSTUP_TOOLCHAIN" ]; then export RUSTUP_TOOLCHAIN; else unset RUSTUP_TOOLCHAIN; fi
  fi
  require_musl
}

# require_musl: Rust's libraries for the keeper, which goes into containers of either architecture. Without them everything but
# sessions and workspaces works, and the build says so.
require_musl() {
  local target missing="" repository
  repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  for target in x86_64-unknown-linux-musl aarch64-unknown-linux-musl; do
    [ -d "$(cd "$repository" && rustc --print target-libdir --target "$target" 2>/dev/null)" ] || missing="$missing $target"
  done
  [ -n "$missing" ] && [ -z "${STEADFAST_KEEPER_DIR:-}" ] || return 0
  if have rustup; then
    say "adding the Rust targets$missing, for what keeps sessions in containers"
    # shellcheck disable=SC2086 # a list of names
    (cd "$repository" && rustup target add $missing >&2) || say "they could not be added: sessions will not work in their containers"
  else
    say "this Rust has no$missing, and there is no rustup to add them: sessions will not work in their containers"
  fi
}

# build_steadfast REPOSITORY: sets STEADFAST to a release build of the tree, or, where it is set already, only looks at it.
build_steadfast() {
  local target
  if [ -n "${STEADFAST:-}" ]; then
    [ -x "$STEADFAST" ] || die "STEADFAST=$STEADFAST is no program that can be run"
    STEADFAST=$(cd "$(dirname "$STEADFAST")" && pwd)/$(basename "$STEADFAST")
  else
    require_rust
    (cd "$1" && cargo build --release --locked)
    target=${CARGO_TARGET_DIR:-$1/target}
    case $target in /*) ;; *) target=$1/$target ;; esac
    STEADFAST=$target/release/steadfast
  fi
  export STEADFAST
}

# port_free PORT: nothing answers there on loopback. A connection, since it needs no tool.
port_free() { ! (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

# free_port [FIRST]: a TCP port nobody answers on, tried upwards from FIRST or from a random place below the ephemeral range.
free_port() {
  local port=${1:-$((20000 + RANDOM % 10000))} tries=0
  until port_free "$port"; do
    port=$((port + 1)); tries=$((tries + 1))
    [ "$tries" -lt 200 ] || die "no free TCP port found near $port"
  done
  printf '%s' "$port"
}

# scratch_dir NAME: makes a directory below $TMPDIR, or below /tmp where that path would be too long for what is put into it: a
# unix socket's path has at most 107 bytes, and Podman's run root 50.
scratch_dir() {
  local base=${TMPDIR:-/tmp}
  base=${base%/}
  if ! is_macos && [ ${#base} -gt 10 ] && [ -w /tmp ]; then base=/tmp; fi
  mktemp -d "$base/$1.XXXXXX"
}

sha256_of() { if have sha256sum; then sha256sum "$1" | cut -d' ' -f1; else shasum -a 256 "$1" | cut -d' ' -f1; fi; }
size_of() { wc -c <"$1" | tr -d ' '; }

# This machine's architecture as manifests spell it.
host_arch() {
  case $(uname -m) in
    aarch64 | arm64) printf arm64 ;;
    x86_64 | amd64) printf x64 ;;
    *) die "unsupported host arch: $(uname -m)" ;;
  esac
}
