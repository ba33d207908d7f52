"""A small load that passes every point at which a worker can be killed, several times.

usage: points.py DIRECTORY
"""

import os, sys

os.chdir(sys.argv[1])


def block(n, length):
    return bytes((n * 31 + i * 7) % 251 for i in range(length))


for n in range(12):
    # Overlapping, across segments, stored in between.
    fd = os.open(f"data{n % 3}", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, block(n, 70_000), n * 5000)
    os.pwrite(fd, block(n + 1, 3000), n * 5000 + 1234)
    os.fsync(fd)
    os.pwrite(fd, block(n + 2, 9000), n * 4000)
    os.ftruncate(fd, 60_000 + n * 100)
    os.pwrite(fd, block(n + 3, 10), 70_000 + n)
    os.utime(fd, (1_000_000_000 + n, 1_000_000_000 + n))
    os.fsync(fd)
    os.close(fd)
    # Names: made, moved over one that is open, removed while open.
    made = os.open(f"made{n}", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    os.write(made, block(n, 500))
    target = os.open("target", os.O_RDWR | os.O_CREAT)
    os.write(target, b"t" * 100)
    os.rename(f"made{n}", "target")
    assert os.pread(target, 200, 0)[:100] == b"t" * 100
    os.unlink("target")
    os.write(made, block(n, 500))
    assert os.pread(made, 2000, 0) == block(n, 500) * 2
    os.close(made)
    os.close(target)
    with open(f"kept{n}", "xb") as kept:
        kept.write(block(n, 2000))
    os.rename(f"kept{n}", f"renamed{n}")
    os.utime(f"renamed{n}", (1_000_000_000, 1_000_000_000))
