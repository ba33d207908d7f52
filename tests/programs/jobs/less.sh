# Goal: `less +F` in a terminal shows what is appended while it waits.
# Needs: less script
# Runs: default
job() {
    echo first >grows
    touch "$OUTSIDE/screen"
    # A terminal of its own; the interrupt and q come from the keyboard.
    (wait_until test -e stop; printf '\003'; sleep 0.5; printf q; sleep 0.5) |
        TERM=vt100 script -qfc 'stty rows 20 cols 80; less +F grows' "$OUTSIDE/screen" >/dev/null &
    wait_until grep -q first "$OUTSIDE/screen"
    local i
    for i in 1 2 3 4; do
        echo "later $i" >>grows
        sleep 0.3
    done
    wait_until grep -q 'later 4' "$OUTSIDE/screen"
    touch stop
    wait
    grep -o 'later [0-9]' "$OUTSIDE/screen" | sort -u
}
