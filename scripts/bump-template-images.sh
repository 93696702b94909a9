#!/usr/bin/env bash
# Pins another build of Debian 12 in template/agents-vm.yaml, with the digests that Debian publishes beside it.
#
#   scripts/bump-template-images.sh BUILD      such as 20260712-2537; https://cloud.debian.org/images/cloud/bookworm lists them
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=SCRIPTDIR/common.sh
. "$here/common.sh"

build=${1:-}
case $build in [0-9]*-[0-9]*) ;; *) die "usage: scripts/bump-template-images.sh BUILD" "a build looks like 20260712-2537" ;; esac
template=$here/../template/agents-vm.yaml
sums=$(curl -fsSL "https://cloud.debian.org/images/cloud/bookworm/$build/SHA512SUMS") || die "Debian has no list of digests for the build $build"

rewritten=$(cat "$template")
for arch in amd64 arm64; do
  digest=$(printf '%s\n' "$sums" | awk -v file="debian-12-genericcloud-$arch-$build.qcow2" '$2 == file { print $1 }')
  [ ${#digest} -eq 128 ] || die "the build $build has no image for $arch"
  # The digest stands two lines below its location.
  rewritten=$(printf '%s\n' "$rewritten" | awk -v arch="$arch" -v build="$build" -v digest="$digest" '
    $0 ~ "genericcloud-" arch "-" { gsub(/[0-9]+-[0-9]+\//, build "/"); sub("-" arch "-[0-9-]+[.]qcow2", "-" arch "-" build ".qcow2"); left = 2 }
    left-- == 0 { sub(/sha512:[0-9a-f]+/, "sha512:" digest) }
    { print }')
done
printf '%s\n' "$rewritten" >"$template"
say "pinned $build in template/agents-vm.yaml"
