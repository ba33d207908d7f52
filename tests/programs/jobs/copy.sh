# Goal: cp makes and keeps holes, copies by reference where that is possible, and says so where not.
# Needs: cp openssl
# Runs: default tiny uncached
job() {
    truncate -s 6M holes
    noise 100K | dd of=holes bs=4096 seek=500 conv=notrunc status=none
    head -c 3M /dev/zero >zeros
    noise 2500K >noise
    cp --sparse=always zeros punched
    cp --sparse=always holes holes2
    cp --sparse=never holes full
    cp --sparse=auto holes holes3
    cp --reflink=auto noise copied
    cp --reflink=always noise cloned 2>/dev/null || echo "no reflink: $?"
    cp -p --attributes-only noise attributes
    touch -d '2001-02-03 04:05:06.789' noise
    chmod 640 noise
    chown 12:34 noise
    cp -a noise kept
    cp -l noise linked
    cp -s noise soft
    cp --backup=numbered kept copied
    cp -u zeros kept
    cp -r . "$OUTSIDE/all"
    cp -a "$OUTSIDE/all" back
    cmp full holes
    cmp full holes2
    cmp full holes3
    cmp zeros punched
    cp nothing there || echo "refused: $?"
    cp noise noise || echo "refused: $?"
}

check() { cmp full holes3; cmp zeros punched; }
