# Goal: mv takes files and trees across filesystems, into and out of the mount, and within it.
# Needs: mv setfattr openssl
# Runs: default tiny
job() {
    make_tree "$OUTSIDE/in"
    make_tree out
    mv "$OUTSIDE/in" .
    mv out "$OUTSIDE/"
    mv "$OUTSIDE/out" back
    diff -r -x fifo in back
    mkdir other
    mv in/noise other/
    mv -T back/deep other/deep
    echo new >target
    echo old >source
    mv -f source target
    mv -n target other/noise 2>/dev/null || true
    mv --backup target other/noise
    mv other other/inside || echo "refused: $?"
    mv --exchange in back 2>/dev/null || true
    ls "$OUTSIDE"
    find . | sort
}

make_tree() {
    mkdir -p "$1/deep"
    noise 1500K >"$1/noise"
    lines 1000 >"$1/deep/text"
    ln "$1/deep/text" "$1/hard"
    ln -s deep/text "$1/soft"
    mkfifo "$1/deep/fifo"
    setfattr -n user.name -v value "$1/noise"
    chmod 2751 "$1/deep"
    chown -h 12:34 "$1/noise" "$1/soft"
    touch -h -d '2001-02-03 04:05:06.789' "$1"/* "$1/deep"
}

check() { cksum other/noise*; getfattr -h -d -R .; }
