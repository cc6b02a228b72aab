#!/bin/bash
# Makes the Debian package of what `make build` has built: all that `make install` installs, so that there is one list of files, and
# dist/debian, the package's scripts, which stop no guest in an upgrade. It goes to target/mvirt-net_VERSION_ARCH.deb.
# VERSION= makes another version than Cargo.toml's, CARGO_TARGET_DIR= takes what was built from there.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}
version=${VERSION:-$(sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)}
architecture=$(dpkg --print-architecture)
maintainer="${DEBFULLNAME:-mvirt-net developers} <${DEBEMAIL:-mvirt-net@packages.debian.org}>"

missing=()
command -v strip >/dev/null || missing+=(binutils)
command -v dpkg-shlibdeps >/dev/null || missing+=(dpkg-dev)
command -v python3 >/dev/null || missing+=(python3)
if [ "${#missing[@]}" -gt 0 ]; then
    [ "$(id -u)" = 0 ] && as_root=() || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
root=$work/root
doc=$root/usr/share/doc/mvirt-net
# What is installed is for everybody to read, whatever the caller's own files are.
umask 022
# A notice that is there may be of another Cargo.lock.
scripts/notice.py "$target/release"
make --no-print-directory install DESTDIR="$root" PREFIX=/usr ETC=/etc UNITS=/lib/systemd/system \
    ZSH="$root/usr/share/zsh/vendor-completions" >/dev/null
find "$root/usr/bin" -type f -exec strip --strip-unneeded {} +
# Where Wireshark looks for programs that capture.
extcap=$root/usr/lib/$(dpkg-architecture -qDEB_HOST_MULTIARCH)/wireshark/extcap
mkdir -p "$extcap"
ln -s ../../../../bin/mvirt "$extcap/mvirt-extcap"

{
    cat dist/debian/copyright
    echo "License: Expat"
    # A paragraph of this file has no empty lines.
    sed 's/^$/./; s/^/ /' LICENSE-MIT
} >"$doc/copyright"
cat >"$doc/changelog" <<CHANGES
mvirt-net ($version) unstable; urgency=medium

  * What is new is in CHANGELOG.md.

 -- $maintainer  $(date -R -d "@$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Cargo.toml)")
CHANGES
gzip -9n "$doc"/{changelog,NOTICE}
find "$root/usr/share/man" -type f -exec gzip -9n {} +
find "$root/usr/share/man" -type l | while read -r link; do
    ln -s "$(readlink "$link").gz" "$link.gz" && rm "$link"
done

# What the programs' libraries are in, and of which version.
mkdir -p "$work/debian" "$root/DEBIAN"
echo "Source: mvirt-net" >"$work/debian/control"
mapfile -t programs < <(find "$root/usr/bin" -type f)
libraries=$(cd "$work" && dpkg-shlibdeps -O "${programs[@]}" | sed -n 's/^shlibs:Depends=//p')
cat >"$root/DEBIAN/control" <<CONTROL
Package: mvirt-net
Version: $version
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $(du -sk --exclude=DEBIAN "$root" | cut -f1)
Depends: $libraries, systemd (>= 250) | systemd-standalone-sysusers, systemd (>= 250) | systemd-standalone-tmpfiles
Recommends: nftables
Suggests: qemu-system-x86, libvirt-daemon-system
Section: net
Priority: optional
Homepage: $(sed -n 's/^repository = "\(.*\)"/\1/p' Cargo.toml)
Description: isolated networks for virtual machines, by vhost-user
 One daemon per host gives virtual machines networks, routed or switched,
 without bridges: every vNIC is a vhost-user socket for Cloud Hypervisor,
 QEMU, User-mode Linux or a DPDK program, and the daemon is the gateway of
 every guest. It hands over to a new version while guests stay connected.
 .
 The service runs as user mvirt-net, without capabilities; members of group
 mvirt-net manage networks with the program mvirt.
CONTROL
sed -i '/^Homepage: $/d' "$root/DEBIAN/control"
echo /etc/mvirt/net.toml >"$root/DEBIAN/conffiles"
install -m 755 dist/debian/{postinst,prerm,postrm} "$root/DEBIAN/"
(cd "$root" && find . -path ./DEBIAN -prune -o -path ./etc -prune -o -type f -printf '%P\0' | sort -z | xargs -0 md5sum) >"$root/DEBIAN/md5sums"

# A daemon that is upgraded finds its program replaced by rename(2), as dpkg does it.
package=$target/mvirt-net_${version}_$architecture.deb
dpkg-deb --root-owner-group ${COMPRESSION:+"-Z$COMPRESSION"} --build "$root" "$package" >/dev/null
echo "$package"
