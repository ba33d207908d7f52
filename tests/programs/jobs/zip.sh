# Goal: zip writes, updates in place and tests archives; unzip reads them back.
# Needs: zip unzip openssl
# Runs: default tiny
job() {
    mkdir -p from/deep
    lines 30000 >from/text
    noise 1M >from/deep/noise
    ln -s text from/soft
    touch -h -d '2001-02-03 04:05:06' from from/* from/deep from/deep/*
    zip -q -X -y -r all.zip from
    zip -T all.zip
    lines 10 >from/text
    touch -d '2002-02-03 04:05:06' from/text
    zip -q -X -y -r -u all.zip from
    zip -q -d all.zip from/deep/noise
    unzip -q all.zip -d to
    diff from/text to/from/text
    unzip -Z1 all.zip
}

check() { unzip -tqq all.zip && echo sound; }
