# Goal: POSIX ACLs are set, shown and copied as elsewhere.
# Needs: setfacl rsync
# Runs: default tiny
job() {
    mkdir -p dir/sub
    echo own >file
    cp file dir/file
    setfacl -m u:1234:rw,g:5678:r,d:u:1234:rwx,d:g::- dir dir/sub
    setfacl -m u:1234:rwx,m::r dir/file
    setfacl -m u:1234:rw file
    chmod g-w file
    getfacl -R .
    rsync -aAX --itemize-changes dir file copy/
    rsync -aAX --itemize-changes dir file copy/
    cp -a dir dir2
    getfacl -R copy dir2
    setfacl -b file
    getfacl file
}

check() { getfacl -R .; }
