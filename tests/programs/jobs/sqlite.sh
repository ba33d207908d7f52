# Goal: processes that write to one database at a time, while others open it again and again, lose
# no row and find it sound, with a rollback journal and with a write-ahead log; a log left by a
# killed process is recovered.
# Needs: python3
# Runs: default tiny uncached
# Differs: *.db* -- pages are in the order in which the processes came
job() {
    local journal
    for journal in delete truncate persist wal; do
        python3 - "$journal" <<'PYTHON'
import multiprocessing, os, sqlite3, sys
journal = sys.argv[1]

def connect():
    db = sqlite3.connect(journal + ".db", timeout=60, isolation_level=None)
    db.execute("pragma synchronous = full" if journal == "delete" else "pragma synchronous = normal")
    return db

def write(writer):
    for number in range(12):
        db = connect()
        db.execute("begin immediate")
        db.executemany("insert into rows values (?, ?, ?)",
                       [(writer, number * 8 + i, "x" * (i * 300)) for i in range(8)])
        db.execute("commit")
        db.close()

def read():
    for _ in range(10):
        db = connect()
        count, = db.execute("select count(*) from rows").fetchone()
        sound, = db.execute("pragma integrity_check").fetchone()
        assert count % 8 == 0 and sound == "ok", (count, sound)
        db.close()

db = connect()
db.execute("pragma journal_mode = " + journal)
db.execute("create table rows (writer int, number int, filler text, primary key (writer, number))")
jobs = [multiprocessing.Process(target=write, args=(n,)) for n in range(4)]
jobs += [multiprocessing.Process(target=read) for _ in range(2)]
for job in jobs: job.start()
for job in jobs: job.join()
print(journal, [job.exitcode for job in jobs])
db.execute("begin")
db.execute("delete from rows where number % 3 = 0")
db.execute("rollback" if journal == "delete" else "commit")
if journal == "wal":
    db.execute("insert into rows values (99, 0, 'in the log')")
    os._exit(0)
PYTHON
    done
}

check() {
    python3 - <<'PYTHON'
import sqlite3
for journal in "delete", "truncate", "persist", "wal":
    db = sqlite3.connect(journal + ".db")
    print(db.execute("pragma integrity_check").fetchone(), db.execute("pragma journal_mode").fetchone(),
          db.execute("select count(*), sum(number), sum(length(filler)) from rows").fetchone())
    db.close()
PYTHON
}
