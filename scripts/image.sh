# shellcheck shell=bash
# Makes a small, real agent image from local files, and publishes images as a manifest with tarballs.
# Sourced after common.sh. No registry and no running Podman is needed: a docker-archive is written by hand.

IMAGE_LIBRARY_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# static_busybox: path of a statically linked busybox, or failure.
static_busybox() {
  local path
  for path in "$(command -v busybox.static || true)" "$(command -v busybox || true)" "$(tools_dir)/busybox-static/bin/busybox"; do
    if [ -n "$path" ] && [ -x "$path" ] && ! ldd "$path" 2>/dev/null | grep -q '=>'; then printf '%s' "$path"; return 0; fi
  done
  return 1
}

# install_busybox: gets the distribution's when there is none. Fails where it has no static one.
install_busybox() {
  static_busybox >/dev/null && return 0
  case $(package_manager) in
    apt-get) unpacked busybox-static bin/busybox >/dev/null || install_packages busybox-static ;;
    dnf) install_packages busybox ;;
  esac
  static_busybox >/dev/null
}

# agent_rootfs DIR VERSION: fills DIR with the agent's files. It answers every GET / on port 8080 with its version and
# $GREETING. From busybox where there is one; else (macOS) from agent.rs, compiled for Linux.
agent_rootfs() {
  local dir=$1 version=$2 busybox applet
  mkdir -p "$dir/bin" "$dir/etc" "$dir/tmp"
  printf '%s\n' "$version" >"$dir/etc/agent-version"
  if ! is_macos && install_busybox; then
    busybox=$(static_busybox)
    cp "$busybox" "$dir/bin/busybox"
    for applet in sh sleep httpd wget cat echo env ls mkdir printf true false kill ps head tail seq touch rm id date yes dd; do
      ln -sf busybox "$dir/bin/$applet"
    done
    # As PID 1 the shell gets no default action for TERM, so without the trap every stop would take the whole timeout.
    cat >"$dir/bin/agent" <<'AGENT'
#!/bin/sh
mkdir -p /tmp/www
echo "hello from agent $(cat /etc/agent-version): ${GREETING:-no greeting set}" >/tmp/www/index.html
httpd -f -p "${PORT:-8080}" -h /tmp/www &
child=$!
trap 'kill "$child"; exit 0' TERM INT
echo "agent $(cat /etc/agent-version) listens on port ${PORT:-8080}"
wait "$child"
AGENT
    chmod 0755 "$dir/bin/agent"
    return
  fi
  compile_agent "$dir/bin/agent"
  ln -sf agent "$dir/bin/wget"
}

compile_agent() {
  local target out=$1
  target=$(uname -m | sed 's/arm64/aarch64/')-unknown-linux-musl
  have rustc || die "no static busybox here, and no rustc to compile the demo agent with"
  if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target" ]; then
    have rustup || die "no static busybox here, and rustc cannot compile for $target" "install the target's standard library"
    say "adding the Rust target $target for the demo agent"
    rustup target add "$target" >&2
  fi
  rustc --edition 2021 -O --target "$target" -C linker=rust-lld -C strip=symbols -o "$out" "$IMAGE_LIBRARY_DIR/agent.rs"
}

# make_archive ROOTFS REFERENCE OUT.tar: a docker-archive with one layer. Same files, same archive, same image id: names are
# sorted and times are zero where tar can do that.
make_archive() {
  local rootfs=$1 reference=$2 out=$3 work layer config arch entrypoint='["/bin/agent"]'
  local flags="--owner=0 --group=0 --numeric-owner --sort=name --mtime=@0 --format=ustar"
  tar --version 2>/dev/null | grep -q GNU || flags="--uid 0 --gid 0 --format ustar"
  case $(host_arch) in arm64) arch=arm64 ;; *) arch=amd64 ;; esac
  work=$(mktemp -d "${TMPDIR:-/tmp}/image.XXXXXX")
  # shellcheck disable=SC2086 # a list of flags
  (cd "$rootfs" && tar $flags -cf "$work/layer.tar" -- *)
  layer=$(sha256_of "$work/layer.tar")
  mv "$work/layer.tar" "$work/$layer.tar"
  printf '{"architecture":"%s","os":"linux","created":"1970-01-01T00:00:00Z","config":{"Entrypoint":%s,"Env":["PATH=/bin"],"StopSignal":"SIGTERM"},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]},"history":[{"created":"1970-01-01T00:00:00Z","created_by":"local files"}]}' \
    "$arch" "$entrypoint" "$layer" >"$work/config.json"
  config=$(sha256_of "$work/config.json")
  mv "$work/config.json" "$work/$config.json"
  printf '[{"Config":"%s.json","RepoTags":["%s"],"Layers":["%s.tar"]}]' "$config" "$reference" "$layer" >"$work/manifest.json"
  # shellcheck disable=SC2086
  (cd "$work" && tar $flags -cf "$out" manifest.json "$config.json" "$layer.tar")
  rm -rf "$work"
}

# make_image REFERENCE VERSION OUT.tar.gz: the agent's image as it is published. OUT.tar (without .gz) gives a plain archive.
make_image() {
  local reference=$1 version=$2 out=$3 work
  work=$(mktemp -d "${TMPDIR:-/tmp}/agent.XXXXXX")
  agent_rootfs "$work/rootfs" "$version"
  make_archive "$work/rootfs" "$reference" "$work/image.tar"
  case $out in
    *.gz) gzip -nc "$work/image.tar" >"$out.new" ;;
    *) mv "$work/image.tar" "$out.new" ;;
  esac
  mv "$out.new" "$out"
  rm -rf "$work"
}

# big_rootfs DIR PROGRAMS RANDOM: the agent's files, and beside them so many MB that compress like programs do (they are programs)
# and so many that do not compress.
big_rootfs() {
  agent_rootfs "$1" 1
  mkdir -p "$1/data"
  { find /usr/bin /usr/lib -type f -size +64k -print0 2>/dev/null | sort -z | xargs -0 cat 2>/dev/null || true; } | head -c "${2}000000" >"$1/data/programs"
  head -c "${3}000000" /dev/urandom >"$1/data/random"
}

# publish_agent DIR AGENT IMAGE VERSION TARBALL.tar.gz: puts the tarball and then the manifest (the manifest last, so that no
# reader ever sees one whose tarballs are not there) below DIR. DIR/vm/manifest.json then offers this one agent.
publish_agent() {
  local dir=$1 agent=$2 image=$3 version=$4 tarball=$5 arch key
  arch=$(host_arch)
  key=vm/images/$agent-$version-$arch.tar.gz
  mkdir -p "$dir/vm/images"
  cp "$tarball" "$dir/$key.new"
  mv "$dir/$key.new" "$dir/$key"
  cat >"$dir/vm/manifest.json.new" <<JSON
{
  "schemaVersion": 2,
  "updatedAt": "$(date -u +%Y-%m-%dT%H:%M:%SZ)",
  "agents": {
    "$agent": {
      "image": "$image",
      "version": "$version",
      "tarballs": {
        "$arch": {
          "key": "$key",
          "sha256": "$(sha256_of "$dir/$key")",
          "sizeBytes": $(size_of "$dir/$key")
        }
      }
    }
  }
}
JSON
  mv "$dir/vm/manifest.json.new" "$dir/vm/manifest.json"
}
