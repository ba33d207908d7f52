# overlayfs, as a container has it: below and above on one ext4. No network.
# shellcheck shell=bash disable=SC2154 # dir comes from `engine`

check_engine() {
    grep -qw overlay /proc/filesystems || { echo "the kernel has no overlayfs" && return 1; }
}

attach() {
    disk layers
    mkdir "$dir/disks/layers/"{lower,upper,work}
    mount -t overlay -o "lowerdir=$dir/disks/layers/lower,upperdir=$dir/disks/layers/upper,workdir=$dir/disks/layers/work" \
        coalescefs-engine "$dir/mnt"
}

client_name() { echo none; }
is_client() { false; }
