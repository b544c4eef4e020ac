# Shared by the scripts of this folder; to be sourced.

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

[ "$(id -u)" = 0 ] || die "run this as root: it makes network namespaces"
command -v cargo >/dev/null || { [ -x "$HOME/.cargo/bin/cargo" ] && PATH="$HOME/.cargo/bin:$PATH"; } || die "cargo is missing"

# What the build needs, and what the real peers and observers of the tests are.
# The protocol compiler is for the client of etcd.
BUILD_PACKAGES="build-essential pkg-config libssl-dev clang protobuf-compiler libprotobuf-dev"
RIG_PACKAGES="iproute2 iputils-ping nftables ethtool tcpdump tshark iperf3 procps openssl python3-scapy \
  strongswan-swanctl charon-systemd libcharon-extra-plugins libcharon-extauth-plugins strongswan-libcharon \
  libstrongswan-standard-plugins libstrongswan-extra-plugins strongswan-pki"

# The cluster's store.
ETCD_PACKAGES="etcd-server etcd-client util-linux"

# Installs what is missing, without starting any service that a package brings.
need_packages() {
  local missing=() package policy=/usr/sbin/policy-rc.d made=
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} = 0 ] && return
  say "installing: ${missing[*]}"
  if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy" && chmod 755 "$policy" && made=1
  fi
  local status=0
  { apt-get update -q >/dev/null &&
    DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}" >/dev/null; } || status=$?
  [ -z "$made" ] || rm -f "$policy"
  [ "$status" = 0 ] || die "the packages could not be installed: ${missing[*]}"
}

need_kernel() {
  mkdir -p /dev/net
  [ -c /dev/net/tun ] || mknod /dev/net/tun c 10 200 || die "no /dev/net/tun"
  [ -d /run/netns ] || mkdir -p /run/netns
}
