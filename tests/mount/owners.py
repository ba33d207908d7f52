"""Prints what a user may do with the files and directories of the current directory: a call a line.
Times that are set are printed, so that a plain directory and a mount print the same."""
import errno
import os
import sys


def call(what, act):
    try:
        answer = act()
    except OSError as error:
        answer = errno.errorcode[error.errno]
    print(what, "->", answer)


def write(name, flags):
    fd = os.open(name, flags)
    try:
        os.write(fd, b"more\n")
        if name.endswith("666"):
            os.fsync(fd)
    finally:
        os.close(fd)


def read(name):
    with open(name, "rb") as file:
        return file.read()


def owner(name):
    stat = os.lstat(name)
    return stat.st_uid, stat.st_gid, oct(stat.st_mode)


def all_of(name):
    call(f"owner of {name}", lambda: owner(name))
    if os.path.isdir(name):
        call(f"list {name}", lambda: sorted(os.listdir(name)))
        call(f"read {name}/file", lambda: read(f"{name}/file"))
        call(f"create {name}/new", lambda: write(f"{name}/new", os.O_WRONLY | os.O_CREAT))
        call(f"mkdir {name}/newdir", lambda: os.mkdir(f"{name}/newdir"))
        for new in "new", "newdir":
            call(f"owner of {name}/{new}", lambda: owner(f"{name}/{new}"))
        call(f"unlink {name}/file", lambda: os.unlink(f"{name}/file"))
    else:
        call(f"read {name}", lambda: read(name))
        call(f"append {name}", lambda: write(name, os.O_WRONLY | os.O_APPEND))
        call(f"O_TRUNC {name}", lambda: write(name, os.O_WRONLY | os.O_TRUNC))
        call(f"truncate {name}", lambda: os.truncate(name, 3))
        call(f"link {name}", lambda: os.link(name, f"{name}-link"))
    call(f"touch {name}", lambda: os.utime(name))
    call(f"set times of {name}", lambda: os.utime(name, (1e9, 1e9)))
    call(f"setxattr {name}", lambda: os.setxattr(name, "user.a", b"value"))
    call(f"getxattr {name}", lambda: os.getxattr(name, "user.a"))
    call(f"chmod {name}", lambda: os.chmod(name, 0o770))
    for uid, gid in (5, -1), (-1, 60), (70_000, 70_000):
        call(f"chown {uid}:{gid} {name}", lambda: os.chown(name, uid, gid))
    call(f"owner of {name}", lambda: owner(name))
    call(f"rename {name}", lambda: os.rename(name, f"{name}-moved"))


print("as", os.getuid(), os.getgid())
for name in sorted(os.listdir(".")):
    all_of(name)
sys.stdout.flush()
