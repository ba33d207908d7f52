# Goal: forty processes append lines to one file, and each line is whole and there once.
# Needs: python3
# Runs: default tiny uncached
# Differs: app.log -- lines are in the order in which the processes came
job() {
    python3 - <<'PYTHON'
import logging, os
go, start = os.pipe()
children = []
for writer in range(40):
    child = os.fork()
    if child == 0:
        os.close(start)
        handler = logging.FileHandler("app.log", mode="a")
        handler.setFormatter(logging.Formatter("%(levelname)s %(message)s"))
        log = logging.getLogger("job")
        log.addHandler(handler)
        os.read(go, 1)  # all begin at the same time
        for number in range(200):
            log.error("writer %02d line %03d %s", writer, number, "x" * (number % 90))
        logging.shutdown()
        os._exit(0)
    children.append(child)
os.close(start)
print([os.waitpid(child, 0)[1] for child in children])
PYTHON
}

check() {
    wc -l <app.log
    sort app.log | cksum
    # Each writer's lines are in the order in which it wrote them.
    sort -s -k3,3 app.log | cksum
}
