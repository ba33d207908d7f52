# Goal: what walks, measures and changes whole trees sees them as elsewhere, just written or not.
# Needs: find du
# Runs: default tiny uncached
job() {
    mkdir -p a/{1,2,3}/{x,y}/{p,q,r}
    local dir
    for dir in a/*/*/*; do
        lines 50 >"$dir/file"
        : >"$dir/empty"
        ln "$dir/file" "$dir/hard"
        ln -s ../p/file "$dir/soft"
    done
    lines 20000 >large
    # Space is counted from the write on, as programs that look for holes expect.
    stat -c '%n %b %B %s' large | awk '{ print $1, ($2 * $3 >= $4 ? "takes its size" : "takes less") }'
    du --apparent-size -b large a/1/x/p/file
    chmod -R u=rwX,go=rX,a-w a/1
    chown -R 12:34 a/2
    find a/3 -name empty -delete
    find a -name 'hard' -path '*/y/*' -exec rm {} +
    cp -r a b
    cp -al a c
    mv a/1 a/2/one
    rm -rf a/2/x
    (mkdir gone; cd gone; rmdir ../gone; touch here) || echo "refused: $?"
    (cd a/2/one/x/p; pwd -P | sed "s|$(cd ../../../../..; pwd -P)|.|"; realpath --relative-to=../../.. ../q/soft)
    mkdir -p deep && (
        cd deep
        for _ in $(seq 60); do
            mkdir 'a rather long name of a directory so that the path is longer than PATH_MAX allows'
            cd 'a rather long name of a directory so that the path is longer than PATH_MAX allows'
        done
        echo bottom >file
        cat file
    )
    find deep -type f | wc -l
    rm -r deep
    mkdir many
    (cd many; seq 3000 | xargs touch; ls | wc -l; ls | sed -n 1,1500p | xargs rm; ls | sort | cksum)
    grep -rl 'line 7 ' a b c | sort | cksum
    ls -lnR --time-style=+ a b c | grep -v ^total | cksum
    rm -rf b/1
    (diff -rq b c || echo "differ: $?") | sort
}

check() { find . -printf '%p %y %m %n %u %g %l\n' | sort | cksum; }
