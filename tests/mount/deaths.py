"""One program of a mixed load: operations chosen by a seed, in a directory of its own.

usage: load.py DIRECTORY SEED OPERATIONS

Prints what it saw, so that two runs with one seed, on two filesystems, print the same. Ends with an
exception at the first error.
"""

import mmap, os, random, shutil, sys

directory, seed, operations = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
os.makedirs(directory)
os.chdir(directory)
choose = random.Random(seed)
known = set()


def text(length):
    return bytes(choose.getrandbits(8) for _ in range(length))


def some():
    return choose.choice(sorted(known)) if known else None


def new():
    return f"n{choose.getrandbits(40):x}"


def append():
    fd = os.open("append", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    for _ in range(20):
        os.write(fd, text(10))
    os.close(fd)


def overwrite():
    fd = os.open("random", os.O_RDWR | os.O_CREAT)
    for _ in range(10):
        os.pwrite(fd, text(choose.randrange(1, 3000)), choose.randrange(0, 300_000))
    at = choose.randrange(0, 300_000)
    print("read", sum(os.pread(fd, 4096, at)))
    os.close(fd)


def mapped():
    fd = os.open("mapped", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 65536)
    with mmap.mmap(fd, 65536) as view:
        at = choose.randrange(0, 65000)
        view[at : at + 100] = text(100)
        print("mapped", sum(view[:]))
    os.close(fd)


def cut():
    if os.path.exists("random"):
        os.truncate("random", choose.randrange(0, 300_000))
        print("size", os.stat("random").st_size)


def make():
    name = new()
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL)
    os.write(fd, text(choose.randrange(0, 5000)))
    os.close(fd)
    known.add(name)


def remove():
    if name := some():
        os.unlink(name)
        known.remove(name)
        assert not os.path.exists(name)


def replace():
    with open("temporary", "wb") as file:
        file.write(text(2000))
    os.rename("temporary", "replaced")
    print("replaced", os.stat("replaced").st_size)


def rename():
    if name := some():
        target = new()
        os.rename(name, target)
        known.remove(name)
        known.add(target)


def link():
    if name := some():
        target = new()
        os.link(name, target)
        print("links", os.stat(name).st_nlink)
        known.add(target)


def symlink():
    os.symlink("nowhere", "symlink")
    os.unlink("symlink")


def directories():
    os.mkdir("d")
    os.makedirs("d/e/f")
    os.mkfifo("d/fifo")
    os.rmdir("d/e/f")
    shutil.rmtree("d")


def listing():
    found = {name for name in os.listdir(".") if name.startswith("n")}
    assert found == known, (found - known, known - found)


def attribute():
    if name := some():
        os.setxattr(name, "user.key", text(20), os.XATTR_CREATE)
        print("attribute", sum(os.getxattr(name, "user.key")))
        os.removexattr(name, "user.key")


def unlinked():
    fd = os.open("unlinked", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    second = os.open("unlinked", os.O_RDONLY)
    bytes_ = text(9000)
    os.write(fd, bytes_)
    os.unlink("unlinked")
    assert os.pread(second, 9000, 0) == bytes_
    os.close(second)
    os.write(fd, bytes_)
    assert os.pread(fd, 9000, 9000) == bytes_
    assert os.fstat(fd).st_nlink == 0
    os.close(fd)


def sync():
    if name := some():
        fd = os.open(name, os.O_RDWR)
        os.write(fd, b"synced")
        os.fsync(fd)
        os.close(fd)


def modes():
    if name := some():
        os.chmod(name, 0o600 | choose.getrandbits(6))
        os.utime(name, ns=(0, 10**18 + choose.getrandbits(30)))
        print("mode", oct(os.stat(name).st_mode), os.stat(name).st_mtime_ns)


work = [append, overwrite, mapped, cut, make, make, make, remove, remove, replace, rename, link]
work += [symlink, directories, listing, attribute, unlinked, sync, modes]
for number in range(operations):
    task = choose.choice(work)
    try:
        task()
    except Exception as error:
        print(f"operation {number}, {task.__name__}: {error!r}", file=sys.stderr)
        raise
