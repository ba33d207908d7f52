# Goal: GNU parallel runs programs whose outputs it keeps apart, in files of the mount.
# Needs: parallel
# Runs: default tiny
# Differs: log -- times
job() {
    export HOME=$OUTSIDE TMPDIR=$PWD PARALLEL_HOME=$OUTSIDE
    mkdir "$OUTSIDE/.parallel"
    touch "$OUTSIDE/.parallel/will-cite"
    parallel --will-cite -j4 --results all 'seq {1} {2}; echo {2} >&2' ::: 1 2 3 ::: 1000 3000 >"$OUTSIDE/said" 2>&1
    sort "$OUTSIDE/said" | cksum
    seq 12 | parallel --will-cite -k -j4 --joblog log 'seq {} 20000 >part.{}; wc -l <part.{}'
    wc -l <log
    seq 20 | parallel --will-cite -k -j4 --tmpdir . 'yes {} | head -n 3000' | cksum
    seq 60000 | parallel --will-cite -k --pipe --block 50k -j3 wc -l | awk '{ n += $1 } END { print n }'
    ls
}
