"""One of many programs that fill a disk: writes records, syncs now and then, and says how far it
was told that its bytes are safe.  Arguments: number, bytes, sync (fsync or close)."""
import errno
import json
import os
import sys

number, most, sync = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
BATCH = 1024


def records(at):
    return (b"%02d%07d\n" % (number, at // 10 // BATCH)) * BATCH


out = None
written = acknowledged = 0
refusal = None
try:
    out = os.open(f"OUTPUT{number}", os.O_WRONLY | os.O_CREAT, 0o644)
    while written < most:
        written += os.write(out, records(written))
        if sync == "fsync" and written // 10 % (BATCH * 40) == 0:
            os.fsync(out)
            acknowledged = written
except OSError as error:
    refusal = errno.errorcode[error.errno]
try:
    if out is not None:
        os.close(out)
    if refusal is None:
        acknowledged = written
except OSError as error:
    refusal = errno.errorcode[error.errno]
print(json.dumps({"number": number, "acknowledged": acknowledged, "refusal": refusal}))
