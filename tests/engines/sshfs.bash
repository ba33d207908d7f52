# sshfs: OpenSSH's server with a directory of an ext4, and its FUSE client, which connects again.
# shellcheck shell=bash disable=SC2154 # dir and address come from `engine`

check_engine() { missing sshfs ssh ssh-keygen && missing_server; }

missing_server() { [ -x "$sshd" ] || { echo "not installed: sshd" && return 1; }; }

# It insists on being called by its whole path.
sshd=/usr/sbin/sshd

serve() {
    disk export
    mkdir "$dir/disks/export/files" "$dir/own"
    mount --bind "$dir/own" /run
    mkdir /run/sshd
    ssh-keygen -q -t ed25519 -N '' -f "$dir/host_key"
    ssh-keygen -q -t ed25519 -N '' -f "$dir/key"
    cat >"$dir/config" <<END
ListenAddress $address:22
HostKey $dir/host_key
AuthorizedKeysFile $dir/key.pub
PermitRootLogin prohibit-password
PasswordAuthentication no
UsePAM no
StrictModes no
ClientAliveInterval 3
ClientAliveCountMax 3
PidFile $dir/sshd.pid
Subsystem sftp internal-sftp
END
    serve_files
}

serve_files() { "$sshd" -f "$dir/config" -E "$dir/sshd.log"; }

attach() {
    # For all users, who have the rights that the modes say; by default it is for its owner alone.
    # Asked often, so that a network that is cut is noticed and connected to again.
    sshfs -F /dev/null -o "ssh_command=${ENGINE_SSH:-ssh},IdentityFile=$dir/key,UserKnownHostsFile=/dev/null" \
        -o StrictHostKeyChecking=no,LogLevel=ERROR,reconnect,ServerAliveInterval=3,ServerAliveCountMax=3 \
        -o "${ENGINE_SSHFS_OPTIONS:-dir_cache=yes,allow_other,default_permissions}" \
        "root@$address:$dir/disks/export/files" "$mnt"
    until_true mountpoint -q "$mnt"
}

client_name() { echo sshfs; }
is_client() { [[ $1 == sshfs\ *" $dir/mnt "* ]]; }

# All connections of the server, and the server.
kill_server() { pkill -KILL -x sshd; }

revive_server() { serve_files; }

# There is one copy.
whole_server() { :; }

# What the client sent, counted by a program that ENGINE_SSH put between it and ssh: see
# benches/engines.rs. Without it nobody knows.
requests() {
    [ -n "${ENGINE_COUNTS:-}" ] || die "sshfs: requests are counted only with ENGINE_COUNTS"
    cat "$ENGINE_COUNTS"
}
