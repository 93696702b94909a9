#!/usr/bin/env bash
# A private Lima that works: limactl, an emulator that runs here, a guest image made from the machine's own Debian mirror, and
# a LIMA_HOME of its own under a user whom limactl accepts.
#
#   scripts/lima-env.sh CMD…                   set it up, run CMD as that user, delete every instance
#
#   . scripts/common.sh; . scripts/lima-env.sh
#   lima_env_install                           what is missing; returns 1 and sets le_reason where that cannot be had
#   lima_env_start                             a scratch directory with a LIMA_HOME; the accelerator; the guest image
#   as_lima_user CMD…                          runs CMD as the user, in an environment with nothing but what is named below
#   lima_env_template OUT                      template/agents-vm.yaml, booting the local guest image where there is one
#   lima_env_stop                              deletes the instances, ends what they left running, removes the scratch directory
#
# Linux: limactl refuses root, so root gets a user for it, made once and kept. Where /dev/kvm is there but useless, a wrapper
# around QEMU emulates instead, since Lima takes the file's presence for KVM. Kept between runs, outside of the tree: limactl
# (built with Go where the machine has none) and the guest image, each under the hash of what it is made of.
# macOS: the limactl that is installed, its own user, and the template's images from the network.

LIMA_ENV_LIBRARY_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# Not a system user: the guest's user gets the same uid, and below 1000 its services may have it already.
LIMA_ENV_USER=steadfast-lima

lima_env_install() {
  le_reason="" le_limactl=""
  if is_macos; then
    le_limactl=$(command -v limactl) || { le_reason="limactl is not installed (brew install lima)"; return 1; }
    return 0
  fi
  # A test user must be able to read it, so not below /root.
  if is_root; then le_cache=/var/cache/steadfast-tests; else le_cache=$(tools_dir); fi
  mkdir -p "$le_cache"
  # Left by runs that were killed.
  find "$le_cache" -mindepth 1 -maxdepth 1 \( -name 'guest.*' -o -name 'build.*' \) -mmin +60 -exec rm -rf {} +
  case $(package_manager) in
    apt-get)
      set -- qemu-utils openssh-client curl mmdebstrap e2fsprogs debian-archive-keyring
      case $(uname -m) in x86_64) set -- "$@" qemu-system-x86 seabios ovmf ;; *) set -- "$@" qemu-system-arm qemu-efi-aarch64 ;; esac
      is_root || set -- "$@" uidmap
      ;;
    dnf) set -- qemu-kvm qemu-img openssh-clients curl ;;
    *) set -- ;;
  esac
  install_packages "$@" || true
  # A qemu-utils from backports gives way to an older qemu-system, and apt-get removes it without a word.
  have qemu-img || install_packages "$@" || true
  le_qemu=$(command -v "qemu-system-$(uname -m)") || { le_reason="qemu-system-$(uname -m) is not installed and cannot be"; return 1; }
  have qemu-img && have ssh && have ssh-keygen || { le_reason="qemu-img or ssh is not installed and cannot be"; return 1; }
  le_limactl=$(command -v limactl) && return 0
  # One is built beside the other: the guest mostly waits for packages, and is found in its cache afterwards.
  local guest
  (trap 'if [ -n "${le_work:-}" ]; then le_remove_work "$le_work"; fi' EXIT; le_make_guest >/dev/null 2>&1) & guest=$!
  le_build_limactl || { kill "$guest" 2>/dev/null || true; return 1; }
  wait "$guest" || true
}

# lima_env_start: everything below le_dir, which has a short name since Lima puts unix sockets below each instance.
lima_env_start() {
  le_dir=$(mktemp -d /var/tmp/sfl.XXXXXX)
  LIMA_HOME=$le_dir/h
  mkdir "$LIMA_HOME"
  le_guest="" le_accelerator=""
  if is_macos; then le_accelerator=vz; return; fi
  if is_root; then
    le_make_user
    chown -R "$LIMA_ENV_USER:" "$le_dir"
  fi
  if ! le_make_guest; then say "no local guest image ($le_reason): VMs boot the template's images from the network"; fi
  le_choose_accelerator
  say "private Lima is up: $(as_lima_user "$le_limactl" --version), $le_accelerator, LIMA_HOME=$LIMA_HOME"
}

# as_lima_user CMD…: for root in the user's home, since ours may be closed to him; else where we are.
as_lima_user() {
  local name environment
  environment=("LIMA_HOME=$LIMA_HOME" "PATH=$(dirname "$le_limactl"):/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin")
  if [ -n "${le_wrapper:-}" ]; then environment+=("QEMU_SYSTEM_$(uname -m | tr '[:lower:]' '[:upper:]')=$le_wrapper"); fi
  if ! is_root; then env "${environment[@]}" "$@"; return; fi
  for name in CI TERM RUST_BACKTRACE http_proxy https_proxy no_proxy ${!STEADFAST_TEST_@}; do
    if [ -n "${!name:-}" ]; then environment+=("$name=${!name}"); fi
  done
  (
    cd "$le_home"
    exec setpriv --reuid "$LIMA_ENV_USER" --regid "$LIMA_ENV_USER" --init-groups \
      env -i "HOME=$le_home" "USER=$LIMA_ENV_USER" "LOGNAME=$LIMA_ENV_USER" SHELL=/bin/bash LANG=C.UTF-8 "${environment[@]}" "$@"
  )
}

lima_env_template() {
  local arch images
  if [ -z "$le_guest" ]; then cp "$LIMA_ENV_LIBRARY_DIR/../template/agents-vm.yaml" "$1"; return; fi
  arch=$(uname -m)
  images="images:
- location: $le_guest/rootfs.qcow2
  arch: $arch
  kernel:
    location: $le_guest/vmlinuz
    cmdline: root=LABEL=cloudimg-rootfs ro console=ttyS0 console=ttyAMA0 mitigations=off tsc=reliable net.ifnames=0
  initrd:
    location: $le_guest/initrd.img"
  # The kernel is given, so the firmware only costs time.
  if [ "$arch" = x86_64 ]; then images="$images
firmware:
  legacyBIOS: true"; fi
  # What stands at the beginning of a line ends the list before it, unless it is a dash.
  IMAGES=$images awk '
    /^images:/ { print ENVIRON["IMAGES"]; inside = 1; next }
    inside && /^[^- ]/ { inside = 0 }
    inside { next }
    /^disk:/ { print "disk: 4GiB"; next }
    { print }
  ' "$LIMA_ENV_LIBRARY_DIR/../template/agents-vm.yaml" >"$1"
  chmod 0644 "$1"
}

lima_env_stop() {
  [ -n "${le_dir:-}" ] || return 0
  local name pid tries
  # One directory that Lima cannot read makes it refuse everything, so its own list is not asked.
  for name in "$LIMA_HOME"/*/lima.yaml; do
    if [ -e "$name" ]; then
      name=$(basename "$(dirname "$name")")
      as_lima_user "$le_limactl" --tty=false delete --force "$name" >/dev/null 2>&1 || say "limactl could not delete $name"
    fi
  done
  # QEMU, host agents and ssh masters all name a file in this directory, which no other run has.
  tries=0
  while [ "$tries" -lt 50 ] && [ -n "$(le_leftovers)" ]; do
    for pid in $(le_leftovers); do
      if [ "$tries" -lt 30 ]; then kill "$pid" 2>/dev/null || true; else kill -9 "$pid" 2>/dev/null || true; fi
    done
    sleep 0.1; tries=$((tries + 1))
  done
  rm -rf "$le_dir"
  if [ -n "${le_work:-}" ]; then le_remove_work "$le_work"; fi # interrupted while building the image
  le_dir=""
  unset LIMA_HOME
}

# ---- below: not for callers --------------------------------------------------------------------------------------------

le_leftovers() { pgrep -f -- "$le_dir/" | grep -vx "$$" || true; }

# limactl and its guest agent, from the sources that tests/lima/tools/go.sum pins. Not by `go install PACKAGE@VERSION`, which
# wants the list of all versions, and there are module proxies that do not give it.
le_build_limactl() {
  local tools=$LIMA_ENV_LIBRARY_DIR/../tests/lima/tools module=github.com/lima-vm/lima/v2 version prefix work
  version=$(awk -v module="$module" '$1 == "require" && $2 == module { print $3 }' "$tools/go.mod")
  prefix=$le_cache/lima-$version-$(cat "$tools"/* | le_hash)
  le_limactl=$prefix/bin/limactl
  [ ! -x "$le_limactl" ] || return 0
  have go || [ ! -x /usr/local/go/bin/go ] || PATH=$PATH:/usr/local/go/bin
  have go || { le_reason="there is neither a limactl nor a Go to build it with"; return 1; }
  say "building limactl $version into $prefix"
  work=$(mktemp -d "$le_cache/build.XXXXXX")
  mkdir -p "$work/prefix/bin" "$work/prefix/share/lima"
  cp "$tools"/* "$work/"
  if ! (cd "$work" && CGO_ENABLED=0 GOBIN=$work/bin go install -ldflags "-s -w -X $module/pkg/version.Version=$version" \
    "$module/cmd/limactl" "$module/cmd/lima-guestagent") >"$work/log" 2>&1; then
    tail -n 5 "$work/log" >&2
    le_reason="limactl could not be built with $(go version | cut -d' ' -f3)"
    rm -rf "$work"
    return 1
  fi
  mv "$work/bin/limactl" "$work/prefix/bin/"
  mv "$work/bin/lima-guestagent" "$work/prefix/share/lima/lima-guestagent.Linux-$(uname -m)"
  chmod -R a+rX "$work/prefix"
  mv -T "$work/prefix" "$prefix" 2>/dev/null || true # another run was faster
  rm -rf "$work"
  [ -x "$le_limactl" ]
}

le_hash() { { if have sha256sum; then sha256sum; else shasum -a 256; fi; } | cut -c1-12; }

le_make_user() {
  local group
  if ! id "$LIMA_ENV_USER" >/dev/null 2>&1; then
    say "limactl refuses root: making the user $LIMA_ENV_USER for it"
    useradd --user-group --create-home --home-dir "/var/lib/$LIMA_ENV_USER" --shell /bin/bash "$LIMA_ENV_USER"
  fi
  le_home=$(getent passwd "$LIMA_ENV_USER" | cut -d: -f6)
  # On a machine with a real KVM its device has a group of its own.
  group=$(stat -c %G /dev/kvm 2>/dev/null || true)
  case $group in '' | root | UNKNOWN) ;; *) usermod --append --groups "$group" "$LIMA_ENV_USER" ;; esac
}

# Lima uses KVM whenever the device exists. Whether that runs a kernel is found out anew each time: it takes a second or two.
le_choose_accelerator() {
  le_wrapper="" le_accelerator="plain emulation"
  [ -e /dev/kvm ] || return 0
  if le_kvm_runs; then le_accelerator=KVM; return; fi
  le_accelerator="plain emulation, since /dev/kvm cannot run a kernel"
  le_wrapper=$le_dir/qemu
  cat >"$le_wrapper" <<WRAPPER
#!/bin/bash
# What Lima passes for KVM becomes what it passes where there is none.
out=()
while ((\$#)); do
  case "\$1=\${2-}" in
    -machine=q35,accel=kvm) out+=(-machine q35,vmport=off -accel tcg,thread=multi,tb-size=512 -global ICH9-LPC.disable_s3=1 -global ICH9-LPC.disable_s4=1); shift 2 ;;
    -machine=*,accel=kvm) out+=(-machine "\${2%,accel=kvm}" -accel tcg,thread=multi,tb-size=512); shift 2 ;;
    -cpu=host) out+=(-cpu max); shift 2 ;;
    *) out+=("\$1"); shift ;;
  esac
done
exec $le_qemu "\${out[@]}"
WRAPPER
  chmod 0755 "$le_wrapper"
}

# As the user, who may be locked out of the device: a kernel has to say its first line. Without a disk it panics right after.
le_kvm_runs() {
  local kernel=$le_guest/vmlinuz machine=q35 console=ttyS0 each
  if [ -z "$le_guest" ]; then
    kernel=""
    for each in /boot/vmlinuz-*; do if as_lima_user test -r "$each"; then kernel=$each; fi; done
    [ -n "$kernel" ] || return 1
  fi
  if [ "$(uname -m)" != x86_64 ]; then machine=virt console=ttyAMA0; fi
  case $(as_lima_user timeout 10 "$le_qemu" -machine "$machine,accel=kvm" -cpu host -m 512 -nodefaults -display none -no-reboot \
    -serial stdio -kernel "$kernel" -append "console=$console panic=-1" 2>/dev/null </dev/null) in
    *"Linux version"*) return 0 ;;
    *) return 1 ;;
  esac
}

# ---- the guest image ---------------------------------------------------------------------------------------------------

# Debian 12 with all that Lima and the template's provisioning would else install over the network.
le_guest_packages() {
  local arch=amd64
  [ "$(uname -m)" = x86_64 ] || arch=arm64
  printf '%s,' "linux-image-cloud-$arch" systemd-sysv systemd-resolved udev dbus dbus-user-session libpam-systemd initramfs-tools \
    cloud-init cloud-guest-utils fdisk openssh-server sudo iproute2 procps kmod less zstd \
    podman crun netavark aardvark-dns catatonit iptables ca-certificates curl rsync
  printf sshfs
}

# Lines for apt about Debian 12, from the mirror that this machine uses itself; nothing where it uses none of Debian's.
le_guest_sources() {
  apt-get indextargets --format "\$(ORIGIN) \$(LABEL) \$(COMPONENT) \$(REPO_URI)" 'Created-By: Packages' 2>/dev/null |
    awk '$1 == "Debian" && $3 == "main" && !seen[$2 $4]++ {
      if ($2 == "Debian") { print "deb " $4 " bookworm main"; print "deb " $4 " bookworm-updates main" }
      if ($2 == "Debian-Security") print "deb " $4 " bookworm-security main"
    }' | sort -u
}

# The file system's last changes, and the image of it. `bash -c "$(le_guest_finish)" _ ROOT OUT`, as root of the files.
le_guest_finish() {
  cat <<'FINISH'
set -euo pipefail
root=$1 out=$2
echo 'LABEL=cloudimg-rootfs / ext4 rw,discard,errors=remount-ro,x-systemd.growfs 0 1' >"$root/etc/fstab"
: >"$root/etc/machine-id"
rm -f "$root/var/lib/dbus/machine-id" "$root"/etc/ssh/ssh_host_* "$root/etc/resolv.conf"
ln -s ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
echo debian >"$root/etc/hostname"
# Under emulation each service of cloud-init's costs 5 s at each boot, and all its modules cost 25 s: only those that Lima's
# user-data needs, and none in the service for which it asks nothing.
cat >"$root/etc/cloud/cloud.cfg.d/95_tests.cfg" <<'CONFIG'
datasource_list: [ NoCloud, None ]
locale: C.UTF-8
ssh_genkeytypes: [ed25519]
apt_preserve_sources_list: true
cloud_init_modules: [bootcmd, write-files, growpart, resizefs, mounts, set_hostname, update_hostname, ca-certs, users-groups, ssh, timezone]
cloud_config_modules: []
system_info: {network: {renderers: [networkd]}}
cloud_final_modules: [scripts-per-once, scripts-per-boot, scripts-per-instance, scripts-user, final-message]
CONFIG
chroot "$root" systemctl --quiet enable systemd-networkd systemd-resolved ssh
chroot "$root" systemctl --quiet disable podman-auto-update.service podman-auto-update.timer apt-daily.timer apt-daily-upgrade.timer \
  dpkg-db-backup.timer fstrim.timer e2scrub_all.timer e2scrub_reap.service systemd-pstore.service
chroot "$root" systemctl --quiet mask cloud-init-hotplugd.socket cloud-config.service
# For what is not there. They run each time that systemd is asked to read its units again, as Lima does at each boot.
mkdir -p "$root/etc/systemd/system-generators"
for generator in cryptsetup debug gpt-auto hibernate-resume integritysetup rc-local run system-update sysv veritysetup; do
  ln -s /dev/null "$root/etc/systemd/system-generators/systemd-$generator-generator"
done
# As Lima (2.1) writes it, who reads the units again and restarts the resolver where it is not there.
mkdir -p "$root/etc/systemd/resolved.conf.d"
printf '[Resolve]\nMulticastDNS=yes\n\n' >"$root/etc/systemd/resolved.conf.d/00-lima-enable-mdns.conf"
cp "$root"/boot/vmlinuz-* "$out/vmlinuz"
cp "$root"/boot/initrd.img-* "$out/initrd.img"
truncate -s 2G "$out/rootfs.img"
PATH=$PATH:/usr/sbin:/sbin mke2fs -q -t ext4 -L cloudimg-rootfs -E root_owner=0:0 -d "$root" "$out/rootfs.img"
chmod 0644 "$out"/*
FINISH
}

# Sets le_guest to the directory of the image, building it when it is not there; or returns 1 and sets le_reason.
le_make_guest() {
  local guest made started=$SECONDS
  guest=$le_cache/guest-$({ le_guest_packages; le_guest_finish; uname -m; } | le_hash)
  if [ ! -e "$guest/rootfs.qcow2" ]; then
    have mmdebstrap || { le_reason="there is no mmdebstrap for this machine"; return 1; }
    # Until the mirror's lists are there, apt does not know whose it is.
    [ -n "$(le_guest_sources)" ] || as_root apt-get update -qq >/dev/null 2>&1 || true
    say "building a guest image into $guest"
    # Where the sub-uids of a normal user can go, too.
    le_work=$(mktemp -d /var/tmp/sfg.XXXXXX)
    mkdir "$le_work/image"
    chmod 0755 "$le_work"
    chmod 0777 "$le_work/image"
    if ! le_build_guest "$le_work" >"$le_work/log" 2>&1; then
      tail -n 10 "$le_work/log" >&2
      le_remove_work "$le_work"; le_work=""
      le_reason="it could not be built; the end of the log is above"
      return 1
    fi
    # On the cache's own file system, so that it appears there as a whole.
    made=$(mktemp -d "$le_cache/guest.XXXXXX")
    qemu-img convert -f raw -O qcow2 "$le_work/image/rootfs.img" "$made/rootfs.qcow2"
    cp "$le_work/image/vmlinuz" "$le_work/image/initrd.img" "$made/"
    chmod -R a+rX "$made"
    mv -T "$made" "$guest" 2>/dev/null || rm -rf "$made" # another run was faster
    le_remove_work "$le_work"; le_work=""
    say "built it in $((SECONDS - started)) s"
  fi
  le_guest=$guest
}

le_build_guest() {
  local work=$1 sources
  sources=$(le_guest_sources)
  set -- bookworm --variant=minbase "--include=$(le_guest_packages)" --aptopt='Acquire::Languages "none"' \
    --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/locale/*'
  if is_root; then
    le_mmdebstrap "$sources" --mode=root "$@" "$work/root" && bash -c "$(le_guest_finish)" _ "$work/root" "$work/image"
    return
  fi
  # As a normal user by way of an archive, since the files belong to whom they should only inside a user namespace.
  le_mmdebstrap "$sources" --mode=unshare "$@" "$work/root.tar" && mkdir "$work/root" && chmod 0777 "$work/root" &&
    unshare --user --map-root-user --map-auto bash -c "mkdir \"\$1\" && tar -xf \"\$3\" -C \"\$1\" --exclude='./dev/*' && $(le_guest_finish)" \
      _ "$work/root/r" "$work/image" "$work/root.tar"
}

# le_mmdebstrap SOURCES ARG…: without sources, as on Ubuntu, mmdebstrap goes to Debian's own mirror.
le_mmdebstrap() {
  local sources=$1; shift
  if [ -n "$sources" ]; then printf '%s\n' "$sources" | mmdebstrap "$@" -; else mmdebstrap "$@"; fi
}

# What a normal user's build leaves belongs to sub-uids.
le_remove_work() { rm -rf "$1" 2>/dev/null || unshare --user --map-root-user --map-auto rm -rf "$1" || true; }

# Run, not sourced.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  # shellcheck source=SCRIPTDIR/common.sh
  . "$LIMA_ENV_LIBRARY_DIR/common.sh"
  [ $# -gt 0 ] || die "usage: scripts/lima-env.sh CMD…"
  lima_env_install || die "no Lima here: $le_reason"
  trap lima_env_stop EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  lima_env_start
  export STEADFAST_TEST_LIMA_TEMPLATE=$le_dir/agents-vm.yaml
  lima_env_template "$STEADFAST_TEST_LIMA_TEMPLATE"
  as_lima_user "$@"
fi
