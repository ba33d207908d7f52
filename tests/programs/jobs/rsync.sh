# Goal: rsync copies into, within and out of the mount with links, attributes and holes, and finds
# nothing to do the second time.
# Needs: rsync setfattr openssl
# Runs: default tiny
job() {
    mkdir -p "$OUTSIDE/from/deep"
    (
        cd "$OUTSIDE/from"
        lines 20000 >text
        noise 2M >deep/noise
        ln text deep/hard
        ln -s ../text deep/soft
        setfattr -n user.name -v value text
        setfattr -n user.dir -v value deep
        truncate -s 8M holes
        echo end >>holes
        chown 1234:5678 deep/noise
        chmod 4711 deep/noise
        touch -d '2001-02-03 04:05:06.789123456' text deep/noise deep .
    )
    local options=(-aHX --sparse --itemize-changes)
    rsync "${options[@]}" "$OUTSIDE/from/" to/
    echo again:
    rsync "${options[@]}" "$OUTSIDE/from/" to/
    rsync "${options[@]}" --checksum "$OUTSIDE/from/" to/
    rsync -aHX to/ within/
    rsync "${options[@]}" to/ within/
    rsync -aHX within/ "$OUTSIDE/back/"
    rsync "${options[@]}" --checksum "$OUTSIDE/from/" "$OUTSIDE/back/"
    echo changes:
    echo more >>within/text
    printf changed | dd of=within/deep/noise bs=7 seek=1000 conv=notrunc status=none
    rm within/deep/soft
    touch -d '2002-02-03 04:05:06' within/text within/deep/noise within/deep within
    rsync "${options[@]}" --no-whole-file --inplace within/deep/ to/deep/
    rsync "${options[@]}" --append-verify within/text to/text
    rsync "${options[@]}" --delete --delay-updates within/ to/
    rsync "${options[@]}" --delete within/ to/
}

check() { rsync -aHX --itemize-changes --checksum within/ to/; }
