# Goal: binaries and scripts just written can be run, stripped and linked; one that runs cannot be
# written, but replaced.
# Needs: gcc ld strip objcopy ar
# Runs: default tiny
job() {
    printf 'int puts(const char *); int part(void);\nint main(void) { puts("runs"); return part(); }\n' >main.c
    printf 'int part(void) { return 5; }\n' >part.c
    gcc -g0 -c main.c part.c
    gcc -o program main.o part.o
    ./program || echo "answers $?"
    strip -o stripped program
    ./stripped || echo "answers $?"
    strip program
    ./program || echo "answers $?"
    gcc -shared -fPIC -o libpart.so part.c
    gcc -o shared main.o -L. -lpart -Wl,-rpath,'$ORIGIN'
    ./shared || echo "answers $?"
    ld -r -o both.o main.o part.o
    gcc -o joined both.o
    ./joined || echo "answers $?"
    objcopy --only-section=.text program text.o

    printf '#!/bin/sh\necho "script $1"\n' >script
    ./script x || echo "not yet: $?"
    chmod +x script
    ./script y
    printf '#!/usr/bin/env python3\nprint("python")\n' >with-env
    chmod 755 with-env
    ./with-env
    printf '#!./script\n' >chained
    chmod 755 chained
    ./chained

    cp "$(command -v sleep)" nap
    ./nap 30 &
    local pid=$!
    wait_until runs $pid
    printf x >>nap || echo "busy: $?"
    cp --remove-destination stripped nap
    ./nap || echo "answers $?"
    kill $pid
    wait $pid || echo "ended: $?"
    # Writable elsewhere: it cannot be run.
    exec 7>>script
    ./script z || echo "busy: $?"
    exec 7>&-
    ./script z
    for i in $(seq 20); do
        printf '#!/bin/sh\necho %s\n' "$i" >at-once
        chmod +x at-once
        ./at-once
    done
}

# The new program has taken the place of the shell that started it.
runs() { [ "$(readlink "/proc/$1/exe")" = "$(readlink -f nap)" ]; }

check() { ./stripped || echo "answers $?"; ./shared || echo "answers $?"; ./script a; }
