# Goal: Python's temporary files, memory maps, tree copies, and atomic replacements work.
# Needs: python3
# Runs: default tiny uncached
job() {
    TMPDIR=$PWD python3 - <<'PYTHON'
import errno, hashlib, mmap, os, pathlib, shutil, tempfile
with tempfile.TemporaryFile() as file:  # unlinked, or never linked
    file.write(b"0123456789" * 100000)
    file.seek(0)
    print(hashlib.md5(file.read()).hexdigest(), os.fstat(file.fileno()).st_nlink)
with tempfile.NamedTemporaryFile(dir=".") as file:
    file.write(b"x" * 5000)
    file.flush()
    print(os.path.getsize(file.name))
with tempfile.SpooledTemporaryFile(max_size=10) as file:
    file.write(b"y" * 100)
    print(file.tell())
print(sorted(os.listdir(".")))

with open("mapped", "wb+") as file:
    file.truncate(3 << 20)
    with mmap.mmap(file.fileno(), 0) as shared:
        for offset in range(0, 3 << 20, 9999):
            shared[offset:offset + 5] = b"%05d" % (offset // 9999)
        child = os.fork()
        if child == 0:
            shared[1 << 20:(1 << 20) + 5] = b"child"
            os._exit(0)
        os.waitpid(child, 0)
        file.seek(1 << 20)
        print(file.read(5))
        os.pwrite(file.fileno(), b"written", 2 << 20)
        print(shared[2 << 20:(2 << 20) + 7], shared.find(b"child"))
        shared.flush()
    print(hashlib.md5(pathlib.Path("mapped").read_bytes()).hexdigest())

os.makedirs("tree/a/b")
for n in range(50):
    path = pathlib.Path("tree/a/b" if n % 2 else "tree/a", f"file{n}")
    path.write_text(f"{n}\n" * n * 100)
    os.utime(path, ns=(10**18 + n, 10**18 + n * 1001))
os.symlink("a/file2", "tree/soft")
os.setxattr("tree/a/file2", "user.name", b"value")
shutil.copytree("tree", "copy", symlinks=True)
shutil.copytree("tree", "follows")
shutil.move("copy/a/b", "copy/moved")
shutil.rmtree("follows/a/b")
shutil.make_archive(os.environ["OUTSIDE"] + "/archive", "tar", "tree")
shutil.unpack_archive(os.environ["OUTSIDE"] + "/archive.tar", "unpacked")
shutil.copyfile("mapped", "copied")

for n in range(30):  # as editors, package managers and configuration tools replace a file
    with open("config.new", "w") as file:
        file.write(f"version {n}\n" * 500)
        file.flush()
        os.fsync(file.fileno())
    os.replace("config.new", "config")
directory = os.open(".", os.O_RDONLY)
os.fsync(directory)
with open("config", "r+b", buffering=0) as file:
    file.seek(7)
    os.writev(file.fileno(), [b"ab", b"cd"])
    print(os.preadv(file.fileno(), [bytearray(3), bytearray(4)], 2), os.posix_fallocate(file.fileno(), 0, 20000))
    os.sendfile(file.fileno(), directory_file := os.open("tree/a/file4", os.O_RDONLY), 0, 100)
    os.truncate("config", 12345)
    print(os.fstat(file.fileno()).st_size)
for call in (lambda: os.rmdir("tree"), lambda: os.open("tree", os.O_WRONLY), lambda: os.unlink("tree"),
             lambda: open("config", "x"), lambda: os.rename("tree", "config"), lambda: os.readlink("config"),
             lambda: os.listdir("config"), lambda: os.open("soft/x", os.O_RDONLY),
             lambda: os.open("tree/soft", os.O_NOFOLLOW), lambda: os.pread(directory, 1, 0),
             lambda: os.getxattr("config", "user.none"), lambda: os.mkfifo("config")):
    try:
        call()
        print("done")
    except OSError as error:
        print(errno.errorcode[error.errno])
PYTHON
}

check() { md5sum mapped copied config; find . | sort; }
