# MooseFS: a master, three chunkservers that keep two copies of everything, and its FUSE client.
# shellcheck shell=bash disable=SC2154 # dir and address come from `engine`

check_engine() { missing mfsmaster mfschunkserver mfsmount mfssetgoal mfssettrashtime; }

serve() {
    local server
    mkdir -p "$dir/master"
    cp /var/lib/mfs/metadata.mfs.empty "$dir/master/metadata.mfs"
    echo '* / rw,alldirs,admin,maproot=0' >"$dir/master/exports"
    # No higher priority than what it is tested with.
    cat >"$dir/master/config" <<END
WORKING_USER = root
WORKING_GROUP = root
DISABLE_OOM_KILLER = 0
NICE_LEVEL = 0
DATA_PATH = $dir/master
EXPORTS_FILENAME = $dir/master/exports
END
    mfsmaster -c "$dir/master/config" start
    for server in 1 2 3; do
        add_server "$server"
    done
}

# add_server NUMBER: another chunkserver, with a disk of its own.
add_server() {
    disk "c$1"
    mkdir "$dir/c$1" "$dir/disks/c$1/chunks"
    echo "$dir/disks/c$1/chunks" >"$dir/c$1/disks"
    cat >"$dir/c$1/config" <<END
WORKING_USER = root
WORKING_GROUP = root
DISABLE_OOM_KILLER = 0
NICE_LEVEL = 0
DATA_PATH = $dir/c$1
HDD_CONF_FILENAME = $dir/c$1/disks
HDD_LEAVE_SPACE_DEFAULT = 64MiB
MASTER_HOST = $address
CSSERV_LISTEN_PORT = 94${1}2
END
    serve_chunks "$1"
}

serve_chunks() { mfschunkserver -c "$dir/c$1/config" start; }

attach() {
    mfsmount "$dir/mnt" -H "$address" -o "$client_options" >>"$dir/client.log"
    until_true mountpoint -q "$dir/mnt"
    until_true has_space
    mfssetgoal -r 2 "$dir/mnt" >>"$dir/client.log"
    # What is removed makes room at once.
    mfssettrashtime -r 0 "$dir/mnt" >>"$dir/client.log"
}

# By itself it looks at the rights of the last part of a path only, as long as it has cached the others.
client_options=mfsnice=0,mfsallowoomkiller,mfsattrcacheto=0,default_permissions${ENGINE_MOOSEFS_OPTIONS:+,$ENGINE_MOOSEFS_OPTIONS}

# The chunkservers tell the master of theirs.
has_space() { [ "$(stat -f -c %b "$dir/mnt")" -gt 0 ]; }

# It calls itself so.
client_name() { echo mfsmount; }
is_client() { [[ $1 == "mfsmount (mounted on: $dir/mnt)"* ]]; }

kill_server() { kill -KILL "$(pidof_server 1)"; }

# pidof_server NUMBER: its lock file names it.
pidof_server() { tr -dc 0-9 <"$dir/c$1/.mfschunkserver.lock"; }

revive_server() { serve_chunks 1; }

# A file has two copies.
grow_server() { add_server 4 && add_server 5; }

# The master copies what has fewer copies than it should.
whole_server() { :; }

limit() { mfssetquota -L "$1" "$mnt/files" >>"$dir/client.log"; }

# What the client got from the kernel; what it sends to the servers nobody counts.
requests() {
    awk '/^fuse_ops:/ { all = $2 } /^fuse_ops.write:/ { writes = $2 } END { print writes, all }' \
        "$dir/mnt/.stats"
}
