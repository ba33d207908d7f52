# Goal: file attributes are asked for and changed as below, by their owner only.
# Needs: lsattr chattr setpriv
# Runs: default uncached
job() {
    lines 100 >f
    mkdir d
    lsattr -d f d 2>&1 || return 0
    chattr +d f && lsattr f
    chattr +A d && lsattr -d d
    chattr +i f
    echo more 2>/dev/null >>f || echo "immutable: not written"
    rm -f f 2>/dev/null || echo "immutable: not removed"
    chattr -i f
    lines 10 >>f
    chmod 711 ..
    as 1234 - chattr +i f 2>/dev/null || echo "not the owner's"
    chattr -d f && chattr -A d
}
