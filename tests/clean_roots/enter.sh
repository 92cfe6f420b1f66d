# Runs a command as the only one in a root directory: enter.sh ROOT COMMAND...
#
# Made to be started by `unshare` in namespaces of its own, as process 1: with it go all
# processes and all mounts. NIXERY_TEST_BINDS names directories of the machine, separated
# by colons, that are seen in there at the same place, to be read.
set -eu
root=$1
shift

mount --bind "$root" "$root"
cd "$root"
mount -t proc proc proc
mount -t sysfs sysfs sys
# The machine's own tree: where controllers belong to version 1, a new mount of version 2 has none,
# and container runtimes need them.
mount --rbind /sys/fs/cgroup sys/fs/cgroup

mount -t tmpfs -o mode=755,nosuid dev dev
mkdir dev/pts dev/shm dev/net
for device in null zero full random urandom tty fuse net/tun loop-control; do
    [ -e "/dev/$device" ] || continue
    touch "dev/$device"
    mount --bind "/dev/$device" "dev/$device"
done
for device in /dev/loop[0-9]*; do
    [ -b "$device" ] || continue
    touch "${device#/}"
    mount --bind "$device" "${device#/}"
done
mount -t devpts -o newinstance,ptmxmode=0666,mode=620 devpts dev/pts
mount -t tmpfs -o mode=1777 shm dev/shm
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ln -s fd/0 dev/stdin
ln -s fd/1 dev/stdout
ln -s fd/2 dev/stderr
mount -t tmpfs -o mode=755 run run
mkdir -m 1777 run/lock

IFS=:
for directory in ${NIXERY_TEST_BINDS-}; do
    mkdir -p "./$directory"
    mount --bind "$directory" "./$directory"
    mount -o remount,bind,ro "./$directory"
done
unset IFS NIXERY_TEST_BINDS

# A real root, not chroot's: runc would change it, and users make namespaces.
mkdir -p old-root
pivot_root . old-root
cd /
umount -l /old-root
rmdir /old-root

# Whoever is process 1 waits for orphans. What still runs at the end has been left behind.
status=0
"$@" || status=$?
for process in /proc/[0-9]*; do
    [ "${process#/proc/}" = $$ ] && continue
    # The kernel's dead have no command line.
    command=$(tr '\0' ' ' 2>/dev/null <"$process/cmdline") || continue
    [ -z "$command" ] || echo "left behind: $command" >&2
done
exit "$status"
