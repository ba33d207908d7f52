# Goal: dd with each of its ways to write and sync does what it does elsewhere.
# Needs: dd openssl
# Runs: default tiny uncached
job() {
    noise 4M >in
    dd if=in of=fsync bs=100K conv=fsync status=none
    dd if=in of=fdatasync bs=100K conv=fdatasync status=none
    dd if=in of=direct bs=64K oflag=direct status=none
    dd if=direct of=direct2 bs=1M iflag=direct status=none
    dd if=in of=direct bs=4K count=10 seek=20 oflag=direct conv=notrunc status=none
    dd if=in of=append bs=333 count=2000 status=none
    dd if=in of=append bs=333 count=2000 oflag=append conv=notrunc status=none
    dd if=in of=dsync bs=100K count=10 oflag=dsync status=none
    dd if=in of=sync bs=100K count=10 oflag=sync status=none
    dd if=in of=seek bs=1000 seek=77 count=5 status=none
    dd if=in of=middle bs=1 skip=1000 count=3000 status=none
    dd if=in of=middle bs=10 seek=5 count=1 conv=notrunc status=none
    cat in | dd of=piped bs=64K iflag=fullblock oflag=nocache status=none
    dd if=/dev/zero of=sparse bs=64K count=32 conv=sparse status=none
    dd if=in of=swapped conv=swab,excl status=none
    dd if=in of=swapped conv=excl status=none || echo "refused: $?"
    dd if=in of=shorter bs=1M status=none
    dd if=in of=shorter bs=1K count=1 status=none
    dd if=in of=bytes bs=10 count=100000 status=none
    cmp in fsync
    cmp in fdatasync
    cmp in piped
    cmp direct2 fsync
    cksum direct direct2 append dsync sync seek middle swapped
}

check() { cksum ./*; }
