# Goal: set-user-id and set-group-id bits end when another user writes or truncates, and with a
# change of owner.
# Needs: setpriv dd
# Runs: default tiny uncached
job() {
    chmod 711 ..
    chmod 1777 .
    local how number=0
    for how in 'echo more >>$0' 'echo new >$0' 'truncate -s 2 $0' \
        'dd if=/dev/zero of=$0 bs=4096 count=1 oflag=direct conv=notrunc status=none' \
        'dd if=/dev/zero of=$0 bs=4096 count=9 conv=fsync status=none'; do
        number=$((number + 1))
        echo contents >$number
        chmod 6777 $number
        as 1234 - sh -c "$how" $number
        stat -c "%a after $how" $number
    done
    for how in 'chown 1234' 'chgrp 1234' 'chmod 4711' 'cp /dev/null'; do
        number=$((number + 1))
        echo contents >$number
        chmod 6777 $number
        $how $number
        stat -c "%a after root's $how" $number
    done
}
