"""Stands in for a service manager: keeps descriptors (sd_notify(3)) and starts the service again,
with them, when it fails. Prints a line for each thing that happens; also for the messages that
MANAGER_TELLS names, separated by commas."""

import ctypes, os, signal, socket, sys

address, command = sys.argv[1], sys.argv[2:]
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.bind("\0" + address[1:] if address[0] == "@" else address)
notify.settimeout(0.02)
store = []
tells = os.environ.get("MANAGER_TELLS", "").split(",")


def start():
    pid = os.fork()
    if pid:
        return pid
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
    import fcntl
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 200) for _, fd in store]
    for number, fd in enumerate(high, 3):
        os.dup2(fd, number)
    os.closerange(3 + len(high), 4096)
    passed = {"NOTIFY_SOCKET": address, "FDSTORE": "16"}
    if store:
        passed |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(store))}
        passed["LISTEN_FDNAMES"] = ":".join(name for name, _ in store)
    os.execve(command[0], command, os.environ | passed)


def receive():
    """Whether there was a message."""
    try:
        data, fds, _, _ = socket.recv_fds(notify, 4096, 16)
    except TimeoutError:
        return False
    lines = dict(line.split("=", 1) for line in data.decode().splitlines())
    name = lines.get("FDNAME", "stored")
    if "FDSTORE" in lines:
        store.extend((name, fd) for fd in fds)
    elif "FDSTOREREMOVE" in lines:
        for _, fd in [kept for kept in store if kept[0] == name]:
            os.close(fd)
        store[:] = [kept for kept in store if kept[0] != name]
    for name in tells:
        if name in lines:
            print(name, lines[name], flush=True)
    if "READY" in lines:
        print("ready", len(store), flush=True)
    return True


child = start()
signal.signal(signal.SIGTERM, lambda *_: os.kill(child, signal.SIGTERM))
while True:
    receive()
    pid, status = os.waitpid(child, os.WNOHANG)
    if pid == 0:
        continue
    while receive():
        pass
    code = os.waitstatus_to_exitcode(status)
    print("ended", code, len(store), flush=True)
    if code == 0:
        break
    child = start()
