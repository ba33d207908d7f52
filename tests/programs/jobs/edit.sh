# Goal: the small tools that rewrite, patch, shorten and install files leave what they leave elsewhere.
# Needs: patch sed shuf truncate install ln ed openssl
# Runs: default tiny uncached
job() {
    lines 5000 >a
    sed 's/line 3000/row 3000/; 10d' a >b
    diff -u --label a --label b a b >a.diff || true
    cp a patched
    patch -s -b patched a.diff
    cmp patched b
    patch -s -R patched a.diff
    patch -s -f -o rejected.out b a.diff || echo "patch: $?"
    chmod 640 b
    ln b hard
    sed -i.orig s/line/row/ b
    sed -i '$a\end' b
    ln -s a soft
    sed -i --follow-symlinks 1d soft
    printf '1d\nw\nq\n' | ed -s b
    shuf --random-source=a a -o shuffled
    shuf --random-source=a -o a a
    sort shuffled | cksum
    truncate -s 100K a
    truncate -s +50 a
    truncate -s '<1000' patched
    truncate -c -s 5 nothing
    truncate -r hard sized
    truncate -s %4096 sized
    install -m 4755 -o 12 -g 34 b installed
    install -D -p -m 600 hard deep/er/file
    install -d -m 1777 made
    install -C -m 600 hard deep/er/file
    ln -sfn deep link
    ln -sfn made link
    ln -f b forced
    ln -r -s deep/er/file relative
    ln a made || echo "linked: $?"
    unlink hard
    touch -r deep/er/file a
    tac a >tac
    expand -t 3 b | fold -w 20 >folded
    : >empty
    >>empty
    echo over >|empty
    printf '%s\n' one two three >>empty
    perl -pi.bak -e 's/row/word/' b
    rm -f nothing
    shred -n 1 -u forced
}

check() { cksum a b patched* sized deep/er/file; }
