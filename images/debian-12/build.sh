#!/bin/sh
# Build `debian-12`, Debian's own userland with cloud-init, from Debian's packages.
#
#   build.sh OUT.qcow2
#
# debootstrap makes a minimal system in a folder, apt adds the packages named in `packages`, files
# of ours (root/) are laid over it, and the folder becomes a disk: mke2fs writes the file system,
# GRUB is put before it as bytes. Nothing is mounted but /proc and /dev inside the folder, in mount
# and process namespaces that end with the build, so that no loop device is needed and nothing
# stays behind. It needs root: the packages' own scripts run in a chroot.
#
# UNKAI_IMAGE_CACHE    where downloaded packages are kept (default: images/build/packages)
# UNKAI_DEBIAN_MIRROR  where bookworm comes from (default: as apt on this machine has it)
set -eu
umask 022
LC_ALL=C.UTF-8 SOURCE_DATE_EPOCH=1767225600 TZ=UTC DEBIAN_FRONTEND=noninteractive
export LC_ALL SOURCE_DATE_EPOCH TZ DEBIAN_FRONTEND
PATH=$PATH:/usr/sbin:/sbin:/usr/bin:/bin

[ $# -eq 1 ] || { echo "usage: $0 OUT.qcow2" >&2; exit 2; }
[ "$(id -u)" = 0 ] || { echo "$0: must be run as root" >&2; exit 1; }
here=$(cd "$(dirname "$0")" && pwd)
out=$1
cache=${UNKAI_IMAGE_CACHE:-$here/../build/packages}/debian-12
suite=bookworm
disk_mib=1280
first_sector=2048
root_uuid=756e6b61-6900-4d12-8c6f-756400000001

for tool in apt-get apt-config debootstrap unshare mke2fs sfdisk qemu-img; do
	command -v "$tool" >/dev/null || { echo "$0: $tool is missing; run 'make setup'" >&2; exit 1; }
done
# Once more in namespaces of our own: whatever ends the build ends its processes and mounts.
if [ "${UNKAI_IMAGE_INSIDE:-}" != 1 ]; then
	export UNKAI_IMAGE_INSIDE=1
	exec unshare --mount --propagation private --pid --fork --kill-child "$0" "$@"
fi
mkdir -p "$cache" "$(dirname "$out")"
cache=$(cd "$cache" && pwd)
work=$(mktemp -d)
root=$work/root
clean_up() {
	for folder in proc dev/pts dev; do
		umount -l "$root/$folder" 2>/dev/null || true
	done
	rm -rf --one-file-system "$work" "$out.part"
}
trap clean_up EXIT
trap 'exit 1' HUP INT TERM

# SOURCE_DATE_EPOCH would make Python's compiled files be checked by their source's content at each
# start, which costs a guest seconds; INITRD=No spares making an initramfs more than once.
inside() { env -u SOURCE_DATE_EPOCH INITRD=No chroot "$root" "$@"; }
say() { echo "debian-12: $*"; }

# Run a step with its output in the log, which is shown when the step fails.
quietly() {
	"$@" >"$work/log" 2>&1 || { tail -n 40 "$work/log" >&2; echo "$0: $1 failed" >&2; exit 1; }
}

# Print where apt on this machine takes a suite of Debian's from, or the default.
mirror() {
	found=$(apt-get indextargets --format '$(ORIGIN) $(CODENAME) $(COMPONENT) $(REPO_URI)' \
		'Created-By: Packages' 2>/dev/null | sed -n "s/^Debian $1 main //p" | head -n 1)
	found=${found:-$2}
	echo "${found%/}"
}
main=${UNKAI_DEBIAN_MIRROR:-$(mirror $suite http://deb.debian.org/debian)}
security=$(mirror $suite-security http://deb.debian.org/debian-security)

make_system() {
	say "the minimal system"
	quietly debootstrap --variant=minbase --cache-dir="$cache" "$suite" "$root" "$main"
	mount -t proc proc "$root/proc"
	# The few devices that scripts may want; the machine's own stay out of reach.
	mount -t tmpfs -o mode=755 dev "$root/dev"
	for device in null zero full random urandom tty; do
		cp -a "/dev/$device" "$root/dev/"
	done
	ln -s /proc/self/fd "$root/dev/fd"
	printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d" # installing starts nothing
	chmod 0755 "$root/usr/sbin/policy-rc.d"
	cp -R "$here/root/." "$root/"
	cp "$here/../resize" "$root/usr/local/bin/"
	mkdir -p "$root/etc/initramfs-tools"
	cp "$here/modules" "$root/etc/initramfs-tools/modules"
	cat >"$root/etc/fstab" <<-TABLE
		UUID=$root_uuid / ext4 errors=remount-ro 0 1
	TABLE
}

# Give apt inside the machine's own way to Debian, for the time of the build.
borrow_apt() {
	sources=$root/etc/apt/sources.list.d/debian.sources
	cp "$sources" "$work/debian.sources"
	sed -i -e "s|http://deb.debian.org/debian-security\$|$security|" \
		-e "s|http://deb.debian.org/debian\$|$main|" "$sources"
	: >"$root/etc/apt/sources.list"
	apt-config dump | grep -E '^Acquire::(https?::|Check-)' >"$root/etc/apt/apt.conf.d/00build" || true
	echo 'APT::Sandbox::User "root";' >>"$root/etc/apt/apt.conf.d/00build"
	echo force-unsafe-io >"$root/etc/dpkg/dpkg.cfg.d/00build"
	cp -L /etc/resolv.conf /etc/hosts "$root/etc/"
	cp "$cache"/*.deb "$root/var/cache/apt/archives/"
}

return_apt() {
	cp -n "$root"/var/cache/apt/archives/*.deb "$cache/"
	cp "$work/debian.sources" "$root/etc/apt/sources.list.d/"
	rm "$root/etc/apt/sources.list" "$root/etc/apt/apt.conf.d/00build" \
		"$root/etc/dpkg/dpkg.cfg.d/00build" "$root/usr/sbin/policy-rc.d"
	printf '127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n' >"$root/etc/hosts"
	ln -sf ../run/systemd/resolve/stub-resolv.conf "$root/etc/resolv.conf"
}

install_packages() {
	say "its packages"
	quietly inside apt-get -q update
	quietly inside apt-get -q -y dist-upgrade
	# shellcheck disable=SC2046 # a word each
	quietly inside apt-get -q -y --no-install-recommends -o Dpkg::Options::=--force-confold \
		install $(sed 's/#.*//' "$here/packages")
	kernel=$(cd "$root/boot" && echo vmlinuz-*)
	kernel=${kernel#vmlinuz-}
	quietly chroot "$root" update-initramfs -c -k "$kernel"
}

# What would do nothing but take time in a guest: a first boot must not begin with apt's timers.
settle_services() {
	inside systemctl --quiet enable systemd-networkd systemd-resolved systemd-timesyncd
	inside systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer e2scrub_reap.service \
		e2scrub_all.timer
	inside passwd --quiet --lock root
}

# Nothing of this machine or this moment goes into the image.
forget() {
	inside apt-get clean
	: >"$root/etc/machine-id"
	rm -rf "$root"/etc/ssh/ssh_host_* "$root"/var/lib/apt/lists/* "$root"/var/cache/apt/*.bin \
		"$root"/var/cache/debconf/*-old "$root"/var/lib/dpkg/*-old "$root"/var/cache/ldconfig/* \
		"$root"/var/lib/dbus/machine-id "$root"/var/lib/systemd/random-seed "$root"/etc/*- \
		"$root"/etc/hostname "$root"/run/* "$root"/tmp/* "$root"/usr/share/man/* \
		"$root"/usr/share/info/* "$root"/usr/share/locale/*
	find "$root/var/log" -type f -delete
	find "$root/usr/share/doc" -type f ! -name copyright -delete
	find "$root/usr/share/doc" \( -type l ! -exec test -e {} \; -o -type d -empty \) -delete
}

# GRUB without grub-install, which wants to find the disk it runs from: core.img lies in the gap
# before the first partition, from sector 1, where the boot record looks for it unless told
# otherwise (GRUB's boot.S, diskboot.S). It holds every module that a menu needs.
make_loader() {
	inside grub-mkimage -O i386-pc -o /tmp/core.img -p '(,msdos1)/boot/grub' biosdisk part_msdos \
		ext2 normal linux configfile search search_fs_uuid test echo gzio serial terminal minicmd \
		halt reboot ls cat all_video
	mv "$root/tmp/core.img" "$work/core.img"
	mkdir -p "$root/boot/grub"
	command_line=$(. "$here/root/etc/default/grub" && echo "$GRUB_CMDLINE_LINUX")
	# As update-grub has it, for the first kernel; installing another one writes it anew.
	cat >"$root/boot/grub/grub.cfg" <<-MENU
		set timeout=0
		menuentry Debian {
		 search --no-floppy --fs-uuid --set=root $root_uuid
		 linux /boot/vmlinuz-$kernel root=UUID=$root_uuid ro $command_line
		 initrd /boot/initrd.img-$kernel
		}
	MENU
}

make_disk() {
	say "the disk"
	umount "$root/dev" "$root/proc"
	# Not of Python's sources: what was compiled from them would be taken for outdated.
	find "$root" -newermt "@$SOURCE_DATE_EPOCH" ! -name '*.py' -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
	disk=$work/disk.raw
	truncate -s ${disk_mib}M "$disk"
	sfdisk -q "$disk" <<-TABLE
		label: dos
		label-id: 0x756e6b64
		start=$first_sector, type=83, bootable
	TABLE
	# -E offset= lets the file system begin inside the file; sizes are in KiB.
	E2FSPROGS_FAKE_TIME=$SOURCE_DATE_EPOCH quietly mke2fs -q -F -t ext4 -d "$root" -L root \
		-U $root_uuid -m 1 -O ^metadata_csum_seed \
		-E offset=$((first_sector * 512)),hash_seed=$root_uuid,lazy_itable_init=1,nodiscard \
		"$disk" $((disk_mib * 1024 - first_sector / 2))
	dd if="$root/usr/lib/grub/i386-pc/boot.img" of="$disk" bs=440 count=1 conv=notrunc status=none
	[ "$(stat -c %s "$work/core.img")" -le $(((first_sector - 1) * 512)) ]
	dd if="$work/core.img" of="$disk" bs=512 seek=1 conv=notrunc status=none
	qemu-img convert -f raw -O qcow2 -c "$disk" "$out.part"
}

make_system
borrow_apt
install_packages
settle_services
return_apt
make_loader
forget
make_disk
sync "$out.part"
mv "$out.part" "$out"
say "$out: $(stat -c %s "$out") bytes, kernel $kernel"
