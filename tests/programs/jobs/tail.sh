# Goal: who follows a growing file sees every line, also past a rotation and a truncation.
# Needs: tail
# Runs: default tiny uncached
job() {
    touch grows rotates
    tail -n +1 -f -s 0.05 grows >"$OUTSIDE/followed" &
    tail -n +1 -F -s 0.05 rotates >"$OUTSIDE/rotated" 2>/dev/null &
    local followers i
    followers=$(jobs -p)
    for i in $(seq 1 40); do
        lines $((i * 50)) $((i * 50 + 49)) >>grows
        echo "before $i" >>rotates
        sleep 0.02
    done
    wait_until grep -q 'before 40' "$OUTSIDE/rotated"
    mv rotates rotated.1
    lines 60 >rotates
    wait_until grep -q 'line 60 ' "$OUTSIDE/rotated"
    # As logrotate's copytruncate does it: the writer keeps the file open.
    exec 6>>rotates
    echo copied >&6
    cp rotates rotated.2
    wait_until grep -q copied "$OUTSIDE/rotated"
    : >rotates
    sleep 0.3
    echo last >&6
    exec 6>&-
    wait_until grep -q last "$OUTSIDE/rotated"
    wait_until cmp -s grows "$OUTSIDE/followed"
    kill $followers
    cp "$OUTSIDE/followed" "$OUTSIDE/rotated" .
    cksum followed rotated
}
