#!/bin/sh
# What root does in a guest: makes a place for the tests out of the host's file system, and carries out the steps.
# The directory shared with the host is $1; there "settings" says what is wanted, and each step leaves its output
# and its status. All else that is written here goes to the guest's memory, and is gone with it.
set -eu
share=$1
. "$share/settings" # repository venv version user swap lru_gen
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin

disk() { # the device of the disk with that serial number
    for each in /sys/block/vd*; do
        [ "$(cat "$each/serial")" != "$1" ] || echo "/dev/${each##*/}"
    done
}

layers=0
cover() { # makes the directory $2 a writable view of the directory $1
    layers=$((layers + 1))
    mkdir -p "/run/layers/$layers/upper" "/run/layers/$layers/work"
    mount -t overlay -o "lowerdir=$1,upperdir=/run/layers/$layers/upper,workdir=/run/layers/$layers/work" "$2" "$2"
}

# Python, its libraries and the repository come from a disk: over 9p, each start of Python takes seconds.
dmesg --console-level 3 # the kernel's account of each OOM would take longer than the OOM
modprobe -a virtio_blk squashfs overlay
mkdir /run/image
mount -t squashfs -o ro "$(disk image)" /run/image
while read -r path; do
    parent=$path # which an unprivileged user must reach
    while parent=$(dirname "$parent") && [ "$parent" != / ]; do
        case $(stat -c %a "$parent") in
        *[1357]) ;;
        *) cover "$parent" "$parent" && chmod o+x "$parent" ;;
        esac
    done
    if [ -d "$path" ]; then cover "/run/image$path" "$path"; else mount --bind "/run/image$path" "$path"; fi
done <"$share/paths"

# As systemd does, in its hybrid layout for version 1: controllers that are not mounted there stay with version 2.
groups=/sys/fs/cgroup
if [ "$version" = 1 ]; then
    umount $groups
    mount -t tmpfs -o mode=755 cgroup $groups
    mkdir $groups/memory $groups/freezer $groups/unified
    mount -t cgroup -o memory cgroup $groups/memory
    mount -t cgroup -o freezer cgroup $groups/freezer
    mount -t cgroup2 cgroup2 $groups/unified
    delegated="$groups/memory/delegated $groups/freezer/delegated $groups/unified/delegated"
else
    for controller in memory cpu cpuset io pids; do
        echo "+$controller" >$groups/cgroup.subtree_control
    done
    delegated=$groups/delegated
fi

if [ -n "$swap" ]; then
    mkswap "$(disk swap)" >/dev/null
    swapon "$(disk swap)"
fi
[ -z "$lru_gen" ] || echo "$lru_gen" >/sys/kernel/mm/lru_gen/enabled

# A user, and a group that was given to it, version 1 as a whole, version 2 as the kernel's documentation says.
grep -q "^[^:]*:[^:]*:$user:" /etc/passwd || echo "user:x:$user:$user::/run/home:/bin/sh" >>/etc/passwd
grep -q "^[^:]*:[^:]*:$user:" /etc/group || echo "user:x:$user:" >>/etc/group
mkdir -m 700 /run/home
chown "$user:$user" /run/home
mkdir -m 1777 /run/scratch
for group in $delegated; do
    mkdir "$group"
    case $(stat -f -c %T "$group") in
    cgroup2fs) chown "$user:$user" "$group" "$group/cgroup.procs" "$group/cgroup.threads" "$group/cgroup.subtree_control" ;;
    *) chown -R "$user:$user" "$group" ;;
    esac
done

carry_out() { # the command in the file $1.sh, for the user $2, who is in the delegated group unless it is root
    if [ "$2" != 0 ]; then
        for group in $delegated; do echo 0 >"$group/cgroup.procs"; done
    fi
    cd "$repository"
    set -- "$1" env -i PATH="$venv/bin:$PATH" LANG=C.UTF-8 CI=true \
        TMPDIR=/run/scratch HYPOTHESIS_STORAGE_DIRECTORY="/run/scratch/hypothesis-$2" \
        HOME="$([ "$2" = 0 ] && echo /root || echo /run/home)" \
        setpriv --reuid="$2" --regid="$2" --clear-groups sh -c "$(cat "$1.sh")"
    output=$1.out
    shift
    exec "$@" >"$output" 2>&1 </dev/null
}

uname -r >"$share/booted"
while read -r step uid; do
    status=0
    (carry_out "$share/$step" "$uid") || status=$?
    cp /run/scratch/"$step".xml "$share/" 2>/dev/null || true
    echo "$status" >"$share/$step.status"
done <"$share/steps"
dmesg >"$share/dmesg"
