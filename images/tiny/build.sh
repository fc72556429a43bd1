#!/bin/sh
# Build `tiny`, a bootable guest of at most 20 MB, from Debian's packages.
#
#   build.sh OUT.qcow2
#
# A FAT partition with syslinux, Debian's cloud kernel and an initramfs of busybox and a few
# scripts (root/); behind it, as a cpio archive, what only a guest with a network card unpacks
# (packages), so that one without boots as quickly as ever. Nothing is installed, mounted or run:
# packages are unpacked, and the partition is written by mtools, so no root and no loop device are
# needed. The same packages give the same bytes (tested).
#
# UNKAI_IMAGE_CACHE   where downloaded packages are kept (default: images/build/packages)
# UNKAI_IMAGE_REFRESH set to 1 to ask Debian again instead of using what the cache has
set -eu
umask 022
LC_ALL=C SOURCE_DATE_EPOCH=1767225600 MTOOLS_SKIP_CHECK=1 TZ=UTC
export LC_ALL SOURCE_DATE_EPOCH MTOOLS_SKIP_CHECK TZ
PATH=$PATH:/usr/sbin:/sbin

[ $# -eq 1 ] || { echo "usage: $0 OUT.qcow2" >&2; exit 2; }
here=$(cd "$(dirname "$0")" && pwd)
out=$1
cache=${UNKAI_IMAGE_CACHE:-$here/../build/packages}
mbr=/usr/lib/syslinux/mbr/mbr.bin
disk_sectors=$((24 * 2048)) # 24 MiB: kernel and initramfs take 16
first_sector=2048
more_sector=$((18 * 2048))
max_bytes=20000000

for tool in apt-get apt-cache dpkg-deb cpio lz4 sfdisk mkfs.vfat syslinux mcopy qemu-img; do
	command -v "$tool" >/dev/null || { echo "$0: $tool is missing; run 'make setup'" >&2; exit 1; }
done
mkdir -p "$cache" "$(dirname "$out")"
cache=$(cd "$cache" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work" "$out.part"' EXIT
trap 'exit 1' HUP INT TERM

# Print the path of a package's file, downloading it into the cache when it is not there.
# apt checks its hash against Debian's signed lists.
package() {
	found=$(find "$cache" -name "$1_*.deb" | sort -V | tail -n 1)
	if [ -z "$found" ] || [ "${UNKAI_IMAGE_REFRESH:-0}" = 1 ]; then
		mkdir -p "$work/download"
		(cd "$work/download" && apt-get -q -o APT::Sandbox::User=root download "$1" >&2)
		found=$(find "$work/download" -name "$1_*.deb")
		mv "$found" "$cache/"
		found=$cache/${found##*/}
	fi
	echo "$found"
}

# Print the name of the newest cloud kernel's package: the one in the cache, or the one that
# Debian's meta package points to.
kernel_name() {
	cached=$(find "$cache" -name 'linux-image-[0-9]*-cloud-amd64_*.deb' | sort -V | tail -n 1)
	if [ -n "$cached" ] && [ "${UNKAI_IMAGE_REFRESH:-0}" != 1 ]; then
		cached=${cached##*/}
		echo "${cached%%_*}"
	else
		apt-cache depends linux-image-cloud-amd64 |
			sed -n 's/.*Depends: \(linux-image-[0-9].*-cloud-amd64\)$/\1/p' | head -n 1
	fi
}

# Copy the kernel's modules that a file names into a folder. A number in front keeps the order in
# which they are loaded.
put_modules() {
	mkdir -p "$2"
	count=10
	while read -r module; do
		cp "$(find "$work/kernel" -name "$module.ko")" "$2/$count-$module.ko"
		count=$((count + 1))
	done <"$1"
}

# Write a folder as a cpio archive, the same bytes each time.
archive() {
	find "$1" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	(cd "$1" && find . | sort | cpio --quiet -o -H newc --reproducible -R 0:0)
}

kernel=$(kernel_name)
[ -n "$kernel" ] || { echo "$0: no cloud kernel known; run 'apt-get update'" >&2; exit 1; }
dpkg-deb -x "$(package "$kernel")" "$work/kernel"
dpkg-deb -x "$(package busybox-static)" "$work/busybox"
version=${kernel#linux-image-}

# The initramfs is the guest's whole root, held in memory.
root=$work/root
mkdir -p "$root"/bin "$root"/dev "$root"/proc "$root"/sys "$root"/run "$root"/seed \
	"$root"/tmp "$root"/root "$root"/lib/modules "$root"/var/log
cp -R "$here/root/." "$root/"
cp "$here/../resize" "$root/bin/"
cp "$work/busybox/bin/busybox" "$root/bin/busybox"
for applet in $("$root/bin/busybox" --list); do
	[ -e "$root/bin/$applet" ] || ln -s busybox "$root/bin/$applet"
done
ln -s bin "$root/sbin"
ln -s bin/busybox "$root/init"
put_modules "$here/modules" "$root/lib/modules"
put_modules "$here/network-modules" "$root/lib/modules/network"
chmod 0755 "$root"/etc/init.d/* "$root"/etc/acpi/PWRF/* "$root"/usr/lib/unkai/* "$root"/srv/cgi-bin/*
chmod 1777 "$root/tmp"
chmod 0700 "$root/root"
archive "$root" | lz4 -q -l -9 - "$work/initrd" # the kernel reads lz4's legacy frame only

# What a guest with a network card unpacks over it.
more=$work/more
mkdir -p "$more/bin" "$more/lib" "$more/lib64"
sed 's/#.*//' "$here/packages" | while read -r name path; do
	[ -n "$name" ] || continue
	[ -d "$work/$name" ] || dpkg-deb -x "$(package "$name")" "$work/$name"
	case ${path##*/} in
	*.so.*) cp -L "$work/$name/$path" "$more/lib/" ;;
	*) cp -L "$work/$name/$path" "$more/bin/" ;;
	esac
done
ln -s ../lib/ld-linux-x86-64.so.2 "$more/lib64/"
ln -s dbclient "$more/bin/ssh"
archive "$more" >"$work/more.cpio"
[ "$(stat -c %s "$work/more.cpio")" -le $(((disk_sectors - more_sector) * 512)) ]

# The disk: boot record, an active FAT partition with syslinux in it, the archive.
disk=$work/disk.raw
truncate -s $((more_sector * 512)) "$disk"
mkfs.vfat --invariant -i 756e6b61 -n TINY --offset=$first_sector \
	"$disk" $(((more_sector - first_sector) / 2)) >/dev/null
truncate -s $((disk_sectors * 512)) "$disk"
sfdisk -q "$disk" <<TABLE
label: dos
label-id: 0x756e6b61
start=$first_sector, size=$((more_sector - first_sector)), type=6, bootable
start=$more_sector, type=da
TABLE
dd if="$work/more.cpio" of="$disk" bs=512 seek=$more_sector conv=notrunc status=none
dd if="$mbr" of="$disk" bs=440 count=1 conv=notrunc status=none
syslinux --install --offset $((first_sector * 512)) "$disk"
drive=$disk@@$((first_sector * 512))
cp "$work/kernel/boot/vmlinuz-$version" "$work/vmlinuz"
cp "$here/syslinux.cfg" "$work/"
touch -d "@$SOURCE_DATE_EPOCH" "$work/vmlinuz" "$work/initrd" "$work/syslinux.cfg"
mcopy -m -i "$drive" "$work/syslinux.cfg" "$work/vmlinuz" "$work/initrd" ::/

qemu-img convert -f raw -O qcow2 -c "$disk" "$out.part"
size=$(stat -c %s "$out.part")
[ "$size" -le $max_bytes ] || { echo "$0: $size bytes, more than $max_bytes" >&2; exit 1; }
sync "$out.part"
mv "$out.part" "$out"
echo "$out: $size bytes, kernel $version"
