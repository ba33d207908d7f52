# Goal: sort puts temporary files larger than the buffer into the mount and removes them.
# Needs: sort
# Runs: tiny
job() {
    seq -w 1 2600000 | rev >numbers
    sort -S 3M --parallel=2 -T . --batch-size=4 numbers -o sorted
    sort -c sorted
    tail -n 1 sorted
    head -n 300000 numbers | sort -S 1M -T . -u --compress-program=gzip | cksum
    sort -m sorted numbers 2>/dev/null | wc -l
    ls
}

check() { sort -c sorted; cksum sorted; }
