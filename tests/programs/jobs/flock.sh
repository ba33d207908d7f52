# Goal: flock(1) keeps shells apart, also between a waiting, a trying and a sharing one; a lock ends
# with its process.
# Needs: flock python3
# Runs: default tiny
job() {
    echo 0 >count
    local i
    for i in $(seq 8); do
        (for _ in $(seq 15); do
            flock lock sh -c 'n=$(cat count); echo $((n + 1)) >count'
        done) &
    done
    wait
    cat count
    flock lock sleep 30 &
    wait_until is_locked
    flock -n lock true || echo "held: $?"
    flock -w 0.2 lock true || echo "held: $?"
    # Its child has the lock, too.
    pkill -P $! sleep
    kill $! 2>/dev/null || true
    wait $! || echo ended
    flock -w 10 lock echo free
    flock -s lock flock -s -n lock echo shared
    flock -s lock flock -n lock true || echo "shared: $?"
    # fcntl(2) locks of ranges, which are another kind.
    python3 - <<'PYTHON'
import fcntl, os
file = open("ranges", "w+")
fcntl.lockf(file, fcntl.LOCK_EX, 10, 0)
if os.fork() == 0:
    other = open("ranges", "r+")
    for start in 20, 5:
        try:
            fcntl.lockf(other, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, start)
            print(start, "free", flush=True)
        except OSError as error:
            print(start, error.errno, flush=True)
    os._exit(0)
os.wait()
PYTHON
}

is_locked() { ! flock -n lock true; }
