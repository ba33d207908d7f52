# Goal: other users make, share, change and remove files as their ids, groups and the modes let them.
# Needs: setpriv
# Runs: default tiny
job() {
    chmod 711 ..
    chmod 1777 .
    mkdir -m 2770 team
    mkdir -m 1777 sticky
    mkdir -m 700 private
    chgrp 5678 team
    as 1234 5678 sh -c 'umask 002; echo shared >team/file; mkdir team/dir; echo mine >own; mkfifo fifo'
    as 1235 5678 sh -c 'umask 002; echo more >>team/file; echo too >team/dir/other; mv team/file team/moved'
    as 1234 5678 sh -c 'chgrp 5678 own; chmod 2755 own; ln -s own soft; ln own hard; touch -d 2001-01-01 own'
    as 1235 - sh -c 'cat team/moved; echo x >>own; rm own; touch private/x; ls private' || echo "refused: $?"
    as 1235 - sh -c 'chmod 777 own' || echo "refused: $?"
    as 1235 - sh -c 'chown 1235 own' || echo "refused: $?"
    as 1235 - sh -c 'touch -d 2002-02-02 own' || echo "refused: $?"
    as 1234 - sh -c 'chgrp 5678 hard' || echo "refused: $?"
    as 1234 - sh -c 'echo a >sticky/a; chmod 666 sticky/a; chmod 0 fifo'
    as 1235 - sh -c 'echo b >>sticky/a; rm -f sticky/a' || echo "refused: $?"
    as 1235 - sh -c 'mv sticky/a sticky/b' || echo "refused: $?"
    # Unreadable files, by mode, to their owner and to root.
    as 1234 - sh -c 'echo secret >secret; chmod 200 secret; echo more >>secret; cat secret' || echo "refused: $?"
    as 1234 - sh -c 'umask 777; echo none >none; cat none' || echo "refused: $?"
    as 1234 - sh -c '(umask 277; exec 5>late; chmod 0 late; echo written >&5)'
    cat secret none late
    as 1234 5678 sh -c 'tar cf - team | tar xf - -C sticky; cp -a team sticky/copy; cp -rp own sticky/'
    ls -lnR --time-style=+ .
}

check() { find . -type f | sort | xargs cksum; }
