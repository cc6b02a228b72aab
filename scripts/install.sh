#!/bin/bash
# Installs what the demo and the tests need, and the packages named, from Debian's. Does nothing where all are there.
set -euo pipefail

packages=(user-mode-linux qemu-system-x86 ipxe-qemu ovmf libvirt-daemon-system libvirt-clients busybox-static isc-dhcp-client iperf3
    ethtool dpdk-dev iproute2 cpio kmod mmdebstrap tshark tcpdump ca-certificates vdeplug vde-switch vde-wirefilter vdens libvdeplug-dev libvdeplug-slirp libvdestack-dev liblwipv6-dev openssh-server nftables traceroute iputils-ping ntpsec-ntpdate python3 bsdutils bind9-dnsutils curl cloud-init musl-tools prometheus dpkg-dev lintian tmux chromium chromium-driver
    jq libprotobuf-dev protobuf-compiler python3-grpcio python3-protobuf python3-pip python3-setuptools python3-venv python3-wheel "$@")
[ "$(id -u)" = 0 ] && as_root=() || as_root=(sudo)

missing=()
for package in "${packages[@]}"; do
    [ "$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null)" = installed ] || missing+=("$package")
done
if [ "${#missing[@]}" -gt 0 ]; then
    echo "installing: ${missing[*]}"
    "${as_root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
for program in linux.uml qemu-system-x86_64 libvirtd virsh busybox dhclient iperf3 ethtool dpdk-testpmd cpio mmdebstrap vde_plug vde_switch wirefilter vdens python3 dig curl cloud-init musl-gcc nft ping tshark tcpdump prometheus dpkg-shlibdeps lintian tmux chromium chromedriver jq protoc; do
    command -v "$program" >/dev/null || { echo "$program is still missing" >&2; exit 1; }
done
