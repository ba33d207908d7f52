# Goal: programs joined by FIFOs of the mount pass everything on, with outputs beside them.
# Needs: mkfifo
# Runs: default tiny uncached
job() {
    local i
    for i in $(seq 10); do
        mkfifo fifo$i
        awk -v n="$i" '{ print n, $0; fflush() }' <fifo$i >output$i &
    done
    mkfifo back
    wc -l <back >counted &
    lines 3000 | tee fifo{1..10} >back
    wait
    cksum output*
    cat counted
    # Opened by a reader first, then by a writer; and for both.
    (read -r line <fifo1; echo "read $line") &
    echo hello >fifo1
    wait
    exec 5<>fifo2
    echo kept >&5
    read -r line <&5
    echo "$line"
    exec 5>&-
}
