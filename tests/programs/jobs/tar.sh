# Goal: archives with attributes, holes, links and devices are written, compared and read back; tar
# does not complain of files that change while they are only drained.
# Needs: tar setfattr openssl
# Runs: default tiny
job() {
    mkdir -p from/deep/er from/empty
    lines 30000 >from/text
    noise 3M >from/deep/noise
    ln from/text from/deep/er/link
    ln -s ../text from/deep/soft
    ln -s nowhere from/broken
    mkfifo from/fifo
    mknod from/null c 1 3
    truncate -s 20M from/holes
    lines 10 | dd of=from/holes bs=4096 seek=2000 conv=notrunc status=none
    setfattr -n user.name -v value from/text
    setfattr -n trusted.name -v 0x00ff01 from/deep
    chmod 2750 from/deep
    chmod 600 from/text
    chown 1234:5678 from/deep/noise from/broken -h
    local name
    name=$(printf 'long%.0s' $(seq 50))
    echo long >"from/$name"
    find from -depth -exec touch -h -d '2001-02-03 04:05:06.789123456' {} +

    tar --xattrs --xattrs-include='*' -S --sort=name -cf all.tar from
    tar --xattrs -df all.tar
    mkdir to
    tar --xattrs --xattrs-include='*' -S -xpf all.tar -C to
    tar --xattrs -df all.tar -C to
    diff -r --no-dereference from/deep to/from/deep
    tar -rf all.tar -C to from/text
    tar -tf all.tar | sort
    tar --sort=name -cf changed.tar from/text from/deep
    tar --delete -f changed.tar from/text
    tar -tf changed.tar
    # Times of the run are in this one.
    rm all.tar
    tar -C to -cf - from | tar -xf - --one-top-level=piped
}

check() { find . | sort; cmp from/holes piped/from/holes; getfattr -h -d -m - -R to; }
