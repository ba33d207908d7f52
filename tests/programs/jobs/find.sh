# Goal: find tells files apart by their times, sizes, modes and owners.
# Needs: find
# Runs: default tiny
job() {
    mkdir -p old/er new
    lines 100 >old/file
    touch -d '2001-02-03 04:05:06' old/file
    touch -d '2002-02-03 04:05:06' old/er/late
    touch mark
    sleep 0.1
    echo now >new/after
    echo more >>old/er/appended
    touch -a old/er/late
    lines 5000 >new/large
    mkfifo new/fifo
    chmod 4755 new/after
    chown 1234 new/large
    ln new/large new/linked
    ln -s large new/soft
    looks
    sleep 0.4 # drained meanwhile, which is no news
    touch mark2
    find . -newer mark2
}

looks() {
    local test
    for test in '-newer mark' '! -newer mark' '-mmin -60' '-mmin +60' '-mtime +1' '-anewer mark' \
        '-size +100k' '-size -1k' '-empty' '-perm -4000' '-user 1234' '-links 2' '-type p' \
        '-xtype f -type l' '-samefile new/linked' '-newermt 2000-01-01 -name after'; do
        echo "$test:"
        find . -path './mark*' -prune -o $test -print | sort
    done
}

check() { find . -newer mark -type f | sort; find . -mmin +60 | sort; find . -size +100k | sort; }
