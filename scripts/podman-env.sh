#!/usr/bin/env bash
# A private Podman that works: own storage, configuration, network, locks and socket in a scratch directory, and settings
# found by trying them. Neither the system's nor the user's own Podman configuration is read, written or needed.
#
#   scripts/podman-env.sh CMD…                 start it, run CMD with CONTAINER_HOST set, stop it, remove everything
#
#   . scripts/common.sh; . scripts/image.sh; . scripts/podman-env.sh
#   podman_env_install                         what is missing, by the machine's package manager
#   podman_env_start DIR                       DIR must not exist or be empty; exports CONTAINER_HOST and CONTAINERS_CONF
#   in_podman_ns CMD…                          runs CMD where published ports answer on 127.0.0.1
#   podman_env_cli ARG…                        podman with the private configuration, without the socket
#   podman_env_test_variables                  exports what the suites in tests/ find it by
#   podman_env_attach DIR                      in another process, to use or stop what podman_env_start left running
#   podman_env_stop                            stops exactly what was started, and removes DIR
#
# Linux: a `podman system service` of our own. Where its containers cannot run in the machine's own namespaces (a mixed
# cgroup tree, no /dev/net/tun for a normal user), everything runs in private mount, network and IPC namespaces; then
# published ports answer only inside, which is what in_podman_ns is for. PODMAN_ENV_NAMESPACE=host or =private skips the search.
# macOS: `podman machine`. A running machine is used as it is; otherwise one of our own is made and removed again.

# Podman before this lacks netavark and parts of the API.
PODMAN_ENV_OLDEST=4

podman_env_install() {
  have podman && podman_env_tools_present && return 0
  case $(package_manager) in
    apt-get)
      set -- podman crun netavark aardvark-dns catatonit iptables iproute2
      is_root || set -- "$@" uidmap slirp4netns passt fuse-overlayfs
      ;;
    dnf)
      set -- podman crun netavark aardvark-dns catatonit iproute
      is_root || set -- "$@" shadow-utils slirp4netns passt fuse-overlayfs
      ;;
    brew) set -- podman ;;
    *) set -- podman ;;
  esac
  install_packages "$@" || true
  have podman || die "podman is not installed" "install it with your package manager (Debian: sudo apt-get install podman), then run this again"
}

# Whether what Podman needs beside itself is there.
podman_env_tools_present() {
  is_macos && return 0
  PATH=$PATH:/usr/sbin:/sbin
  pe_has_helper netavark && pe_has_helper aardvark-dns && pe_has_helper catatonit && have ip && { have crun || have runc; } && { is_root || { have newuidmap && { have slirp4netns || have pasta; }; }; }
}

# Podman's helpers are commands not in PATH on every distribution.
pe_has_helper() {
  local directory
  have "$1" && return 0
  for directory in /usr/lib/podman /usr/libexec/podman /usr/local/lib/podman /usr/local/libexec/podman; do
    [ ! -x "$directory/$1" ] || return 0
  done
  return 1
}

podman_env_start() {
  local version
  pe_dir=$1 pe_base="" pe_service="" pe_holder="" pe_machine="" pe_namespace=host
  mkdir -p "$pe_dir"
  pe_dir=$(cd "$pe_dir" && pwd -P)
  [ -z "$(ls -A "$pe_dir")" ] || die "$pe_dir is not empty" "another run may be using it; remove it if not"
  # A unix socket path has at most 107 bytes, and conmon's are longer than ours. (On macOS ours are inside the machine.)
  # Podman (4.3) refuses a run root of more than 50, but in conmon's clean-up alone, where nobody sees it: then nothing that ends
  # is tidied up or restarted.
  is_macos || [ ${#pe_dir} -le 41 ] || die "the path of the scratch directory has ${#pe_dir} characters, and Podman takes at most 41: $pe_dir" "set TMPDIR to a shorter path"
  chmod 0755 "$pe_dir"
  version=$(podman --version | sed 's/[^0-9]*\([0-9]*\).*/\1/')
  [ "${version:-0}" -ge "$PODMAN_ENV_OLDEST" ] || die "$(podman --version) is too old; $PODMAN_ENV_OLDEST.0 or newer is needed"
  if is_macos; then pe_start_machine; else pe_start_service; fi
  pe_save
  pe_export
  say "private Podman $(podman --version | sed 's/.* //') is up: $pe_settings"
}

# in_podman_ns CMD…: in the caller's directory and environment.
in_podman_ns() {
  # shellcheck disable=SC2016 # expanded by the inner shell
  case ${pe_namespace:-host} in
    host) "$@" ;;
    root) nsenter --target "$pe_holder" --mount --net --ipc -- sh -c 'cd "$0" && exec "$@"' "$PWD" "$@" ;;
    user)
      nsenter --target "$pe_holder" --user --preserve-credentials --mount --net --ipc -- \
        sh -c 'cd "$0" && exec "$@"' "$PWD" "$@"
      ;;
  esac
}

podman_env_cli() { if is_macos; then podman "$@"; else in_podman_ns env "${pe_environment[@]}" podman "$@"; fi; }

# What the suites go by (see tests/podman.rs and tests/apply.rs).
podman_env_test_variables() {
  export STEADFAST_TEST_PODMAN_SOCKET=$pe_socket
  # The registry ports which this Podman reaches over plain HTTP.
  export STEADFAST_TEST_REGISTRY=$PODMAN_ENV_REGISTRY STEADFAST_TEST_LOGIN_REGISTRY=$PODMAN_ENV_LOGIN_REGISTRY
  # Where `podman` without the socket is the same Podman.
  if [ -r "$pe_dir/local.env" ]; then export STEADFAST_TEST_PODMAN_ENV=$pe_dir/local.env; fi
}

podman_env_attach() {
  [ -r "$1/state.sh" ] || return 1
  # shellcheck disable=SC1091 # written by pe_save
  . "$1/state.sh"
  pe_set_environment
  pe_export
}

podman_env_stop() {
  [ -n "${pe_dir:-}" ] || return 0
  local pause monitor monitors child tries=0
  if is_macos; then
    if [ -n "$pe_machine" ]; then podman machine rm --force "$pe_machine" >/dev/null 2>&1 || true; fi
    rm -rf "$pe_dir"; pe_dir=""
    return 0
  fi
  if [ -n "$pe_settings" ]; then podman_env_cli rm --all --force --time 0 >/dev/null 2>&1 || true; fi
  if [ -n "$pe_service" ]; then pe_end "$pe_service"; fi
  podman_env_cli system reset --force >/dev/null 2>&1 || true
  # Podman (4.3) may have forgotten a container whose start was cut off, and which runs; and the monitor of an `exec` stays for
  # minutes after its end.
  monitors=$(pgrep -f -- "^[^ ]*conmon .*$pe_dir/" 2>/dev/null || true)
  for monitor in $monitors; do
    for child in $(pgrep -P "$monitor" || true); do kill -9 "$child" 2>/dev/null || true; done
    kill "$monitor" 2>/dev/null || true
  done
  for monitor in $monitors; do kill -9 "$monitor" 2>/dev/null || true; done
  # Podman tidies up after a container that ended by a process of its own, which mounts the store again when it comes too late.
  while pgrep -f -- "^[^ ]*podman .*$pe_dir/.* container cleanup" >/dev/null 2>&1 && [ "$tries" -lt 50 ]; do
    sleep 0.1; tries=$((tries + 1))
  done
  awk -v below="$pe_dir/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo 2>/dev/null | sort -r | while read -r mounted; do
    umount "$mounted" 2>/dev/null || umount -l "$mounted" 2>/dev/null || true
  done || true
  # A normal user's Podman leaves a process behind that keeps its user namespace alive.
  for pause in "$pe_dir"/*/tmp/pause.pid; do
    if [ -r "$pause" ]; then pe_end "$(cat "$pause")"; fi
  done
  # Files of a normal user's containers belong to sub-uids, so they must be removed where those are ours.
  rm -rf "$pe_dir" 2>/dev/null || true
  if [ -d "$pe_dir" ]; then
    case ${pe_namespace:-host} in
      host) env "${pe_environment[@]}" podman unshare rm -rf "$pe_dir" >/dev/null 2>&1 || true ;;
      *) in_podman_ns rm -rf "$pe_dir" >/dev/null 2>&1 || true ;;
    esac
  fi
  if [ -n "$pe_holder" ]; then pe_end "$pe_holder"; fi
  rm -rf "$pe_dir" 2>/dev/null || say "could not remove all of $pe_dir"
  pe_dir="" pe_namespace=host
  unset CONTAINER_HOST CONTAINERS_CONF
}

# ---- below: not for callers --------------------------------------------------------------------------------------------

# What clients need. The configuration too: `podman --url … run` asks for the cgroups mode that the client's file names.
pe_export() {
  export CONTAINER_HOST="unix://$pe_socket"
  is_macos || export CONTAINERS_CONF="$pe_base/containers.conf"
}

# pe_end PID: TERM, and KILL after five seconds.
pe_end() {
  local tries=0
  kill "$1" 2>/dev/null || return 0
  while kill -0 "$1" 2>/dev/null && [ "$tries" -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
  kill -9 "$1" 2>/dev/null || true
  wait "$1" 2>/dev/null || true
}

pe_save() {
  local name
  for name in pe_dir pe_base pe_service pe_holder pe_machine pe_namespace pe_socket pe_settings PODMAN_ENV_REGISTRY PODMAN_ENV_LOGIN_REGISTRY; do
    printf '%s=%q\n' "$name" "${!name:-}"
  done >"$pe_dir/state.sh"
  # For programs that start `podman` without the socket: the assignments, one a line.
  if ! is_macos; then printf '%s\n' "${pe_environment[@]}" | grep '=' >"$pe_dir/local.env"; fi
}

pe_start_machine() {
  local running
  running=$(podman machine list --format '{{.Name}} {{.Running}}' 2>/dev/null | sed -n 's/\*\{0,1\} true$//p' | head -n 1)
  if [ -z "$running" ]; then
    running=steadfast-scripts
    say "making a Podman machine of our own, $running (the first time downloads its disk image)"
    podman machine inspect "$running" >/dev/null 2>&1 || podman machine init --cpus 2 --memory 2048 "$running" >&2
    pe_machine=$running
    podman machine start "$running" >&2
  fi
  pe_socket=$(podman machine inspect "$running" --format '{{.ConnectionInfo.PodmanSocket.Path}}')
  pe_settings="machine $running"
  curl -fsS --unix-socket "$pe_socket" http://podman/_ping >/dev/null || die "the Podman machine $running does not answer on $pe_socket"
}

# Tries namespaces, storage drivers and runtime settings in turn until a container of the demo agent answers over HTTP.
pe_start_service() {
  local place storage
  pe_settings="" pe_log=$pe_dir/probe.log
  : >"$pe_log"
  make_image localhost/podman-env-probe:1 1 "$pe_dir/probe.tar"
  for place in ${PODMAN_ENV_NAMESPACE:-host private}; do
    pe_enter "$place" || continue
    for storage in overlay fuse-overlayfs vfs; do
      if [ "$storage" = fuse-overlayfs ] && ! have fuse-overlayfs; then continue; fi
      # Short: with `/run` behind it, it is Podman's run root.
      pe_base=$pe_dir/${pe_namespace%"${pe_namespace#?}"}-${storage%"${storage#?}"}
      mkdir -p "$pe_base"/root "$pe_base"/run "$pe_base"/tmp "$pe_base"/vol "$pe_base"/net "$pe_base"/cwd
      pe_set_environment
      pe_configure "$storage" "$(pe_first_runtime)" enabled cgroupfs '[]'
      if ! podman_env_cli load -q -i "$pe_dir/probe.tar" >>"$pe_log" 2>&1; then
        printf '^ storage=%s cannot be used\n' "$storage" >>"$pe_log"
        continue
      fi
      if pe_probe_settings "$storage"; then break 2; fi
    done
    pe_leave
  done
  if [ -z "$pe_settings" ]; then
    tail -n 30 "$pe_log" >&2
    die "no Podman settings work on this machine; the tries are above and in $pe_log"
  fi
  pe_settings="$pe_settings, $pe_namespace namespaces"
  podman_env_cli rmi --force localhost/podman-env-probe:1 >/dev/null 2>&1 || true
  rm -f "$pe_dir/probe.tar"
  pe_launch
}

pe_first_runtime() { if have crun; then printf crun; else printf runc; fi; }

pe_probe_settings() {
  local storage=$1 cgroups manager runtime ulimits nofile nproc managers=cgroupfs
  nofile=$(ulimit -Hn); nproc=$(ulimit -Hu)
  # Podman lowers its own process limit to kernel.pid_max before it starts conmon, so more than that cannot be passed on.
  if [ "$nproc" = unlimited ] || [ "$nproc" -gt "$(cat /proc/sys/kernel/pid_max)" ]; then nproc=$(cat /proc/sys/kernel/pid_max); fi
  [ "$nofile" != unlimited ] || nofile=1048576
  if [ -d /run/systemd/system ]; then managers="cgroupfs systemd"; fi
  for cgroups in enabled disabled; do
    for manager in $managers; do
      for runtime in crun runc; do
        have "$runtime" || [ -x "/usr/sbin/$runtime" ] || continue
        # runc refuses containers without cgroups.
        if [ "$runtime $cgroups" = "runc disabled" ]; then continue; fi
        # In this order: inherit Podman's own limits, numbers that can be set, what this Podman thinks best.
        for ulimits in '[]' "[\"nofile=$nofile:$nofile\", \"nproc=$nproc:$nproc\"]" ''; do
          pe_configure "$storage" "$runtime" "$cgroups" "$manager" "$ulimits"
          pe_settings="$runtime, cgroups $cgroups by $manager, ulimits ${ulimits:-default}, storage $storage"
          if pe_probe_once >>"$pe_log" 2>&1; then return 0; fi
          printf '^ not usable: %s, %s namespaces\n' "$pe_settings" "$pe_namespace" >>"$pe_log"
        done
      done
    done
  done
  pe_settings=""
  return 1
}

# One container with a published port, an HTTP answer through it, an exec, and its end.
pe_probe_once() {
  local port answer="" tries=0
  port=$(in_podman_ns bash -c ". '$PODMAN_ENV_LIBRARY_DIR/common.sh'; free_port")
  pe_in_time 30 run --detach --name podman-env-probe --publish "127.0.0.1:$port:8080" localhost/podman-env-probe:1 || {
    pe_in_time 20 rm --force --time 0 podman-env-probe >/dev/null 2>&1
    return 1
  }
  until [ "$tries" -ge 30 ]; do
    # shellcheck disable=SC2016 # expanded by the inner shell
    answer=$(in_podman_ns bash -c 'exec 3<>"/dev/tcp/127.0.0.1/$0" && printf "GET / HTTP/1.0\r\n\r\n" >&3 && timeout 2 cat <&3' "$port" 2>/dev/null) || true
    case $answer in *"hello from agent"*) break ;; esac
    sleep 0.1; tries=$((tries + 1))
  done
  [ "$tries" -lt 30 ] || printf 'the container runs, but does not answer on its published port\n'
  if [ "$tries" -lt 30 ] && ! pe_in_time 20 exec podman-env-probe /bin/true; then tries=30; fi
  pe_in_time 20 rm --force --time 0 podman-env-probe >/dev/null 2>&1 || true
  [ "$tries" -lt 30 ]
}

pe_in_time() { local seconds=$1; shift; in_podman_ns env "${pe_environment[@]}" timeout "$seconds" podman "$@"; }

# The variables under which Podman sees nothing but the scratch directory.
pe_set_environment() {
  pe_environment=(
    -u CONTAINER_HOST -u DOCKER_HOST -u CONTAINERS_REGISTRIES_CONF_DIR
    "HOME=$pe_dir/home" "XDG_RUNTIME_DIR=$pe_dir/xdg" "XDG_CONFIG_HOME=$pe_dir/home/.config" "XDG_DATA_HOME=$pe_dir/home/.local/share"
    "CONTAINERS_CONF=$pe_base/containers.conf" "CONTAINERS_STORAGE_CONF=$pe_base/storage.conf"
    "CONTAINERS_REGISTRIES_CONF=$pe_dir/registries.conf" "TMPDIR=$pe_base/tmp" "PATH=$PATH:/usr/sbin:/sbin"
  )
}

pe_configure() {
  local storage=$1 runtime=$2 cgroups=$3 manager=$4 ulimits=$5 driver=$1 options=""
  if [ "$storage" = fuse-overlayfs ]; then
    driver=overlay
    options="[storage.options.overlay]
mount_program = \"$(command -v fuse-overlayfs)\""
  fi
  cat >"$pe_base/containers.conf" <<CONF
[containers]
${ulimits:+default_ulimits = $ulimits}
cgroups = "$cgroups"
log_driver = "k8s-file"
[engine]
runtime = "$runtime"
cgroup_manager = "$manager"
events_logger = "file"
# Podman ends every stream of events when it rotates their log, which is no fault of the test that listens just then: larger than
# the 1 MB that it is else, and still short enough to be read.
events_logfile_max_size = "4m"
# Else every Podman of the machine shares one lock table in /dev/shm.
lock_type = "file"
tmp_dir = "$pe_base/tmp"
volume_path = "$pe_base/vol"
[network]
network_backend = "netavark"
network_config_dir = "$pe_base/net"
default_network = "$(pe_network)"
default_subnet = "$(pe_subnet)"
CONF
  cat >"$pe_base/storage.conf" <<CONF
[storage]
driver = "$driver"
graphroot = "$pe_base/root"
runroot = "$pe_base/run"
$options
CONF
  pe_write_network
  mkdir -p "$pe_dir/xdg" "$pe_dir/home/.config/containers"
  chmod 0700 "$pe_dir/xdg"
  printf '{"default":[{"type":"insecureAcceptAnything"}]}\n' >"$pe_dir/home/.config/containers/policy.json"
  # A registry on loopback speaks plain HTTP, and Podman wants its very port to be named for that.
  [ -n "${PODMAN_ENV_REGISTRY:-}" ] || PODMAN_ENV_REGISTRY=127.0.0.1:$(free_port 15000)
  [ -n "${PODMAN_ENV_LOGIN_REGISTRY:-}" ] || PODMAN_ENV_LOGIN_REGISTRY=127.0.0.1:$(free_port 16000)
  export PODMAN_ENV_REGISTRY PODMAN_ENV_LOGIN_REGISTRY
  {
    printf 'unqualified-search-registries = []\n'
    printf '[[registry]]\nlocation = "%s"\ninsecure = true\n' "$PODMAN_ENV_REGISTRY" "$PODMAN_ENV_LOGIN_REGISTRY"
  } >"$pe_dir/registries.conf"
}

# A name, a link and a subnet of our own: else a second Podman on the machine hands out the same addresses.
pe_network() { printf 'sf%x' "$$"; }

pe_subnet() {
  if [ ! -s "$pe_dir/subnet" ]; then
    local second third
    for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16; do
      second=$((100 + RANDOM % 150)) third=$((RANDOM % 256))
      ip -4 route 2>/dev/null | grep -q "^10\.$second\." || break
    done
    printf '10.%s.%s' "$second" "$third" >"$pe_dir/subnet"
  fi
  printf '%s.0/24' "$(cat "$pe_dir/subnet")"
}

pe_write_network() {
  local name subnet
  name=$(pe_network) subnet=$(pe_subnet)
  [ ! -s "$pe_base/net/$name.json" ] || return 0
  printf '{"name":"%s","id":"%s","driver":"bridge","network_interface":"%s","created":"2024-01-01T00:00:00Z","subnets":[{"subnet":"%s","gateway":"%s.1"}],"ipv6_enabled":false,"internal":false,"dns_enabled":false,"ipam_options":{"driver":"host-local"}}\n' \
    "$name" "$(printf '%s' "$name$subnet$pe_dir" | { if have sha256sum; then sha256sum; else shasum -a 256; fi; } | cut -c1-64)" "$name" "$subnet" "${subnet%.0/24}" >"$pe_base/net/$name.json"
}

# pe_enter host|private: from now on in_podman_ns goes there.
pe_enter() {
  pe_namespace=host pe_holder=""
  if [ "$1" = host ]; then
    # Both slirp4netns and pasta need it; without it no container of a normal user gets a network.
    if is_root || [ -w /dev/net/tun ]; then return 0; fi
    printf '^ host namespaces cannot be used: /dev/net/tun is not there or not writable\n' >>"$pe_log"
    return 1
  fi
  have unshare && have nsenter || return 1
  rm -f "$pe_dir/ns-ready"
  if is_root; then
    setsid unshare --mount --net --ipc --propagation private sh -c "$(pe_holder_script)" "$pe_dir" >>"$pe_log" 2>&1 </dev/null &
    pe_holder=$! pe_namespace=root
  else
    # Podman then runs as root of a user namespace, with a real bridge in a network namespace of its own.
    setsid unshare --user --map-root-user --map-auto --mount --net --ipc --propagation private sh -c "$(pe_holder_script)" "$pe_dir" \
      >>"$pe_log" 2>&1 </dev/null &
    pe_holder=$! pe_namespace=user
  fi
  local tries=0
  until [ -e "$pe_dir/ns-ready" ]; do
    if ! kill -0 "$pe_holder" 2>/dev/null || [ "$tries" -ge 50 ]; then
      printf '^ private namespaces cannot be made here\n' >>"$pe_log"
      pe_leave
      return 1
    fi
    sleep 0.1; tries=$((tries + 1))
  done
}

pe_leave() {
  if [ -n "$pe_holder" ]; then pe_end "$pe_holder"; fi
  pe_holder="" pe_namespace=host
}

# What the process that keeps the namespaces alive does in them first. $0 is the scratch directory.
pe_holder_script() {
  cat <<'HOLDER'
set -e
PATH=$PATH:/usr/sbin:/sbin
ip link set lo up
# crun 1.8 refuses a version 1 cgroup tree with a version 2 one mounted into it.
if grep -q ' /sys/fs/cgroup/unified ' /proc/self/mounts; then
  umount /sys/fs/cgroup/unified 2>/dev/null || mount -t tmpfs tmpfs /sys/fs/cgroup/unified
fi
# Network namespaces and the lock of iptables live below /run.
if mkdir -p /run/netns 2>/dev/null && [ -w /run/netns ]; then
  mount -t tmpfs tmpfs /run/netns
  mount --make-rshared /run/netns
else
  mount -t tmpfs tmpfs /run
  mkdir -p /run/netns /run/lock
fi
: >"$0/ns-ready"
exec sleep 2147483647
HOLDER
}

# Starts the API service and waits until it answers. Its own directory, since conmon drops files named `oom` where it stands;
# its own session, so that Ctrl-C in a script does not take it away before the clean-up.
pe_launch() {
  local tries=0
  pe_socket=$pe_dir/podman.sock
  # shellcheck disable=SC2016 # expanded by the inner shell
  in_podman_ns env "${pe_environment[@]}" setsid sh -c 'echo $$ >"$0/service.pid"; cd "$1"; shift; exec "$@"' \
    "$pe_dir" "$pe_base/cwd" podman system service --time=0 "unix://$pe_socket" >"$pe_dir/service.log" 2>&1 </dev/null &
  until pe_ping; do
    if [ "$tries" -ge 100 ]; then
      tail -n 5 "$pe_dir/service.log" >&2
      die "the private Podman service does not answer on $pe_socket; its log is above"
    fi
    sleep 0.1; tries=$((tries + 1))
  done
  pe_service=$(cat "$pe_dir/service.pid")
}

pe_ping() {
  [ -S "$pe_socket" ] || return 1
  if have curl; then
    [ "$(curl -fsS --max-time 5 --unix-socket "$pe_socket" http://podman/_ping 2>/dev/null)" = OK ]
  else
    podman --url "unix://$pe_socket" ps >/dev/null 2>&1
  fi
}

PODMAN_ENV_LIBRARY_DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

# Run, not sourced.
if [ "${BASH_SOURCE[0]}" = "$0" ]; then
  set -euo pipefail
  # shellcheck source=SCRIPTDIR/common.sh
  . "$PODMAN_ENV_LIBRARY_DIR/common.sh"
  # shellcheck source=SCRIPTDIR/image.sh
  . "$PODMAN_ENV_LIBRARY_DIR/image.sh"
  [ $# -gt 0 ] || die "usage: scripts/podman-env.sh CMD…"
  podman_env_install
  trap podman_env_stop EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
  podman_env_start "$(scratch_dir sf)"
  export STEADFAST_TEST_PODMAN_SOCKET="$pe_socket" DOCKER_HOST="$CONTAINER_HOST"
  in_podman_ns "$@"
fi
