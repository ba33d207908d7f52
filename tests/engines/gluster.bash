# GlusterFS: a distributed volume of two parts, each of two bricks with an arbiter, and its FUSE
# client.
# shellcheck shell=bash disable=SC2154 # dir and address come from `engine`

check_engine() { missing glusterd gluster glusterfs; }

ask() { gluster --mode=script "$@"; }

serve() {
    local brick bricks=() place
    for brick in a1 a2 a3 b1 b2 b3; do
        disk "$brick"
        bricks+=("$address:$dir/disks/$brick/brick")
    done
    # What has fixed places lies below the directory, too.
    for place in /run /var/lib/glusterd /var/log/glusterfs; do
        mkdir -p "$dir/own$place"
        mount --bind "$dir/own$place" "$place"
    done
    mkdir -p /run/gluster
    glusterd
    until_true ask volume list
    ask volume create vol replica 3 arbiter 1 "${bricks[@]}" force
    # Shorter than a cut of the tests, so that clients notice it.
    ask volume set vol network.ping-timeout 10
    # Looked at after each test; the default is ten minutes.
    ask volume set vol cluster.heal-timeout 5
    if [ -n "${ENGINE_SHARD_BYTES:-}" ]; then
        ask volume set vol features.shard on
        ask volume set vol features.shard-block-size "$ENGINE_SHARD_BYTES"
    fi
    ask volume start vol
    ask volume profile vol start
    until_true all_online 6
}

# all_online COUNT: whether so many bricks have a process.
all_online() {
    [ "$(ask volume status vol detail | grep -c '^Online *: Y')" -eq "$1" ]
}

attach() {
    glusterfs --process-name fuse --volfile-server="$address" --volfile-id=/vol \
        --log-file="$dir/client${mnt#"$dir/mnt"}.log" "$mnt"
    until_true mountpoint -q "$mnt"
    until_true stat "$mnt/."
}

client_name() { echo glusterfs; }
is_client() { [[ $1 == *glusterfs\ *"--log-file=$dir/client.log "* ]]; }

kill_server() {
    kill -KILL "$(cat /run/gluster/vols/vol/*-a1-brick.pid)"
    until_true all_online 5
}

revive_server() {
    ask volume start vol force
    until_true all_online 6
}

# Nothing is left to be healed.
whole_server() {
    ask volume heal vol || true
    until_true healed
}

healed() { ! ask volume heal vol info | grep -E '^Number of entries: ([1-9]|-)'; }

limit() {
    if ! inside gluster --mode=script volume quota vol list >/dev/null 2>&1; then
        inside gluster --mode=script volume quota vol enable
        # Looked at for each write, not once in a minute.
        inside gluster --mode=script volume quota vol soft-timeout 0
        inside gluster --mode=script volume quota vol hard-timeout 0
    fi
    inside gluster --mode=script volume quota vol limit-usage /files "$1"
}

# Of all bricks: a write() comes to three of them, one of which is the arbiter.
requests() {
    inside gluster --mode=script volume profile vol info cumulative | awk '
        $NF ~ /^[A-Z]+$/ && $(NF - 1) ~ /^[0-9]+$/ { all += $(NF - 1); if ($NF == "WRITE") writes += $(NF - 1) }
        END { printf "%d %d\n", writes, all }'
}
