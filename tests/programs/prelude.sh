# What jobs share: the same environment whoever starts them, and nothing left running.
# Commands must succeed; one that must not is followed by `|| echo ...`.
set -euo pipefail
exec 2>&1
umask 022
export LC_ALL=C TZ=UTC
trap 'jobs -p | xargs -r kill 2>/dev/null || true' EXIT

# For jobs that have no check of their own.
check() { :; }

# Waits until a command succeeds; not for ever, but on a machine that is busy, too.
wait_until() {
    local tries
    for tries in $(seq 1200); do
        "$@" && return
        sleep 0.05
    done
    echo "waited in vain for: $*"
    return 1
}

# Lines of text that differ from each other and are the same each time.
lines() { seq -f 'line %.0f of a text that is not too short' "$@"; }

# So many bytes (head -c) that hardly compress and are the same each time.
noise() { head -c "$1" /dev/zero | openssl enc -aes-128-ctr -K 00 -iv 00 -nosalt 2>/dev/null; }

# as USER GROUP|- COMMAND...: as another user, with a further group or without.
as() {
    local user=$1 groups=(--groups "$2")
    [ "$2" != - ] || groups=(--clear-groups)
    shift 2
    setpriv --reuid "$user" --regid "$user" "${groups[@]}" "$@"
}
