# Goal: POSIX ACLs let in whom they name, and keep out whom they do not; a directory's default
# ACL takes the place of the umask.
# Needs: setfacl setpriv
# Runs: default tiny
job() {
    chmod 711 .. .
    lines 10 >file
    chmod 600 file
    setfacl -m u:1234:r,g:5678:rw file
    mkdir -m 700 dir
    setfacl -m u:1234:rwx dir
    tries
    setfacl -m m::- file
    tries
    setfacl -b file dir
    tries
    mkdir parent
    setfacl -m d:u:1234:rwx,d:g::- parent
    (umask 077; echo inherited >parent/file; mkdir parent/sub; mkfifo parent/sub/fifo)
    getfacl -R .
}

tries() {
    local who
    for who in '1234 1234' '1235 5678' '1236 1236'; do
        echo "user and group $who:"
        as ${who% *} ${who#* } head -n 1 file || echo "refused: $?"
        as ${who% *} ${who#* } sh -c 'echo more >>file' || echo "refused: $?"
        as ${who% *} ${who#* } sh -c "echo new >'dir/$who'" || echo "refused: $?"
    done
}
