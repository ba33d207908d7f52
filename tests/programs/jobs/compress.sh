# Goal: compressors read and write files, keep times, and find their own files sound.
# Needs: gzip xz bzip2 openssl
# Runs: tiny
job() {
    lines 100000 >text
    noise 1M >noise
    touch -d '2001-02-03 04:05:06' text noise
    gzip -k text noise
    gunzip -c text.gz | cmp - text
    gzip -t text.gz noise.gz
    cp -p noise.gz again.gz
    gunzip again.gz
    xz -1 -k text
    xz -1 -T2 --block-size=1M -c noise >noise.xz
    xz -t text.xz noise.xz
    xz -dc noise.xz | cmp - noise
    bzip2 -k text
    bunzip2 -c text.bz2 | cmp - text
    cp -p text plain
    gzip plain
    gzip -k text || echo "refused: $?"
    lines 100 | gzip -n >>joined.gz
    lines 100 200 | gzip -n >>joined.gz
    zcat joined.gz | tail -n 1
}

check() { gzip -t ./*.gz; xz -t ./*.xz; bzip2 -t text.bz2; }
