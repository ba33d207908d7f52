# Goal: split and csplit cut a file into parts that make the whole again.
# Needs: split csplit
# Runs: default tiny
job() {
    lines 40000 >text
    split -n l/37 -d -a 3 text part.
    split -b 100K --additional-suffix=.bytes text
    split -l 5000 --filter='gzip -n >$FILE.gz' text zipped.
    split -n r/3 text turn.
    csplit -s -n 3 text '/0000 /' '{2}' '/line 39000 /'
    cat part.* | cmp - text
    cat x*.bytes | cmp - text
    zcat zipped.*.gz | cmp - text
    cat xx* | cmp - text
    cat turn.* | sort | cksum
    # Many small pieces, each its own file.
    split -l 40 -a 4 text many.
    cat many.* | cmp - text
    tee copy.1 copy.2 <text >copy.3
    paste -d, part.000 part.001 | tail -n 1
    join <(head -n 9 text | sort) <(tail -n +5 text | head -n 9 | sort) | wc -l
}

check() { cat many.* | cmp - text; cat part.* | cmp - text; }
