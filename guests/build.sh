#!/bin/bash
# Builds the initial RAM disks of the test guests into target/guests: uml.cpio.gz for User-mode Linux, and
# qemu.cpio.gz with vmlinuz (Debian's cloud kernel) for QEMU. Each holds busybox, dhclient for DHCPv6, iperf3, ethtool, the network
# modules of its kernel, and guests/init. debian is a folder that User-mode Linux takes as its root: a small Debian with
# DHCP clients, guests/client to drive them, systemd-resolved, cloud-init, and guests/init-debian.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${CARGO_TARGET_DIR:-target}/guests
mkdir -p "$out"

# Everything but the modules.
base() {
    local root=$1
    rm -rf "$root"
    mkdir -p "$root"/{bin,sbin,dev,etc,lib/modules,lib64,proc,sys,tmp,var/lib/dhcp}
    cp /bin/busybox "$root/bin/"
    local program library
    for program in "$(command -v dhclient)" "$(command -v iperf3)" "$(command -v ethtool)"; do
        cp "$program" "$root/bin/"
        for library in $(ldd "$program" | grep -o '/[^ ]*'); do
            mkdir -p "$root$(dirname "$library")"
            cp -L "$library" "$root$library"
        done
    done
    cp guests/init "$root/init"
    cp guests/lease4 guests/lease6 guests/dhcp-event "$root/bin/"
    chmod +x "$root/init" "$root/bin/"*
}

# pack ROOT FILE: whole or not at all.
pack() {
    (cd "$1" && find . -print0 | cpio --null --quiet -o -H newc | gzip -1) >"$2.part"
    mv "$2.part" "$2"
}

stamp=$(cat guests/* "$(command -v dhclient)" "$(command -v linux.uml)" | sha256sum)
[ "$(cat "$out/stamp" 2>/dev/null)" = "$stamp" ] && exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# The modules of User-mode Linux that are named, to a folder, in this order.
uml_modules() {
    local folder=$1 number=0 module
    shift
    mkdir -p "$folder"
    for module in "$@"; do
        number=$((number + 1))
        cp "$(find /usr/lib/uml/modules -name "$module.ko" | tail -1)" "$folder/$number-$module.ko"
    done
}

# Harmless where linux.uml does not need it.
cc -O2 -shared -fPIC -o "$out/uml-xstate.so" guests/uml-xstate.c -ldl

base "$work/uml"
network=(crc-ccitt failover net_failover virtio_net ipv6)
uml_modules "$work/uml/lib/modules" "${network[@]}"
pack "$work/uml" "$out/uml.cpio.gz"

# The kernel is unpacked, not installed: the host keeps its own.
kernel_package() { apt-cache depends linux-image-cloud-amd64 2>/dev/null | sed -n 's/.*Depends: \(linux-image-[0-9].*\)/\1/p' | head -1; }
image=$(kernel_package)
[ -n "$image" ] || { apt-get update -qq && image=$(kernel_package); }
(cd "$work" && apt-get -o APT::Sandbox::User=root download -qq "$image" && dpkg-deb -x "$image"_*.deb kernel)
version=$(ls "$work/kernel/lib/modules")
depmod -b "$work/kernel" "$version"
base "$work/qemu"
number=0
for module in virtio_pci virtio_net; do
    while read -r _ file _; do
        number=$((number + 1))
        cp -n "$file" "$work/qemu/lib/modules/$number-$(basename "$file")"
    done < <(modprobe -d "$work/kernel" -S "$version" --show-depends "$module" | grep '^insmod')
done
pack "$work/qemu" "$out/qemu.cpio.gz"
cp "$work/kernel/boot/vmlinuz-$version" "$out/vmlinuz"

clients=(isc-dhcp-client dhcpcd-base systemd systemd-resolved libnss-resolve dbus wide-dhcpv6-client dibbler-client cloud-init)
tools=(busybox iproute2 iputils-ping iputils-tracepath traceroute ethtool iperf3 procps kmod tshark kea-admin)
packages=$(IFS=, && echo "${clients[*]},${tools[*]}")
# Its services are never started: they are a guest's, not the host's.
[ "$(id -u)" = 0 ] && as_root=() || as_root=(sudo)
rm -rf "$out/debian"
"${as_root[@]}" mmdebstrap --quiet --variant=essential --aptopt='Apt::Install-Recommends "false"' --include="$packages" bookworm "$work/debian"
"${as_root[@]}" chown -R "$(id -u):$(id -g)" "$work/debian"
# systemd-resolved, which only one test starts, has taken it: others are to write it.
rm -f "$work/debian/etc/resolv.conf"
touch "$work/debian/etc/resolv.conf"
mkdir -p "$work/debian/out"
uml_modules "$work/debian/modules" "${network[@]}" veth
install -m 755 guests/init-debian "$work/debian/init"
install -m 755 guests/client guests/dhcp-event "$work/debian/usr/local/bin/"
cp -a "$work/debian" "$out/debian"
echo "$stamp" >"$out/stamp"
