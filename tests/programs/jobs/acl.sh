# Goal: POSIX ACLs are set, inherited, obeyed and copied as elsewhere.
# Needs: setfacl rsync setpriv cp
# Runs: default
job() {
    mkdir dir
    setfacl -m u:1234:rw,g:5678:r,d:u:1234:rwx,d:g::- dir
    (umask 077; echo inherited >dir/file; mkdir dir/sub)
    echo own >file
    setfacl -m u:1234:rw file
    chmod g-w file
    getfacl -R .
    rsync -aAX --itemize-changes dir file copy/
    rsync -aAX --itemize-changes dir file copy/
    cp -a dir dir2
    getfacl -R copy dir2
    chmod 711 .. .
    chmod 600 file
    setfacl -m u:1234:r file
    setpriv --reuid 1234 --regid 1234 --clear-groups cat file
    setpriv --reuid 1235 --regid 1235 --clear-groups cat file || echo refused
    setfacl -b file
    getfacl file
}

check() { getfacl -R .; }
