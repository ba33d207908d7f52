# Goal: make builds by timestamps: all, then nothing, then just what depends on a touched header;
# a touched file keeps its time when it is drained, so later makes do nothing either.
# Needs: make gcc ar
# Runs: default tiny uncached
job() {
    cat >Makefile <<'MAKE'
OBJECTS = a.o b.o c.o
program: main.o lib.a ; gcc -o $@ $^
lib.a: $(OBJECTS) ; ar rcsD $@ $^
%.o: %.c ; gcc -O1 -c -o $@ $<
a.o b.o: shared.h
main.o c.o: other.h
MAKE
    echo 'int shared;' >shared.h
    echo 'enum { OTHER = 7 };' >other.h
    printf '#include "shared.h"\nint a(int x) { return x + 1; }\n' >a.c
    printf 'extern int shared;\nint b(int x) { return x + 2; }\n' >b.c
    printf '#include "other.h"\nint c(int x) { return x + OTHER; }\n' >c.c
    printf '#include "other.h"\nint a(int), b(int), c(int);\nint main(void) { return a(b(c(0))); }\n' >main.c
    make -s -j2
    make
    ./program || echo "answers $?"
    sleep 0.3
    touch shared.h
    make
    make
    sleep 0.3
    sed -i s/7/8/ other.h
    make
    ./program || echo "answers $?"
    sleep 0.3
    make
}

check() { make -q && echo nothing to do; }
