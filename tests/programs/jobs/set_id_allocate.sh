# Goal: set-user-id and set-group-id bits end when another user reserves space or makes a hole.
# Needs: setpriv fallocate
# Runs: default uncached
job() {
    chmod 711 ..
    chmod 1777 .
    local how number=0
    for how in '-l 10000' '-n -l 20000' '-p -l 4096' '-z -l 4096'; do
        number=$((number + 1))
        lines 200 >$number
        chmod 6777 $number
        as 1234 - sh -c "fallocate $how $number"
        stat -c "%a after $how" $number
    done
}
