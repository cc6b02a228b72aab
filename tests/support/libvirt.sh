#!/bin/bash
# A libvirtd of Debian's in namespaces of its own (unshare --mount --pid --fork), which starts the domain of FOLDER/domain.xml and
# keeps it until it ends. The domain's serial port is standard input and output, by the pipe FOLDER/console. Nothing is left of it.
set -euo pipefail
folder=$1
mount -t proc proc /proc
for places in /run/libvirt /var/lib/libvirt /var/log/libvirt /var/cache/libvirt; do
    mkdir -p "$places"
    mount -t tmpfs tmpfs "$places"
done
cp -r /etc/libvirt "$folder/etc"
mount --bind "$folder/etc" /etc/libvirt
# There is neither a security module nor systemd's cgroups to rely on, nor a virtlogd.
cat >/etc/libvirt/qemu.conf <<'END'
stdio_handler = "file"
security_driver = "none"
cgroup_controllers = []
END
echo 'auth_unix_rw = "none"' >/etc/libvirt/libvirtd.conf

libvirtd 2>"$folder/libvirtd.log" </dev/null >/dev/null &
for _ in $(seq 200); do [ ! -S /run/libvirt/libvirt-sock ] || break; sleep 0.1; done
mkfifo -m 666 "$folder/console.in" "$folder/console.out"
# Open for writing, too: libvirt opens it and closes it again before QEMU does.
exec 3<>"$folder/console.out"
cat <&3 &
export LIBVIRT_DEFAULT_URI=qemu:///system
timeout 100 virsh create "$folder/domain.xml" </dev/null >&2 || {
    cat "$folder/libvirtd.log" /var/log/libvirt/qemu/*.log >&2
    exit 1
}
exec cat >"$folder/console.in"
