//! What keeper and worker may do, and who gets at their memory.

use std::fs;
use std::process::Command;

use crate::support::{Mount, PROGRAM, SOON, sh, text};

/// Numbers of capabilities(7).
const WORKER: &[u32] = &[0, 1, 2, 3, 4, 6, 7, 9, 21, 23, 27, 31];
const START: &[u32] = &[14, 24];
const KEEPER: &[u32] = &[2, 21];

fn bits(lists: &[&[u32]]) -> u64 {
    lists.iter().copied().flatten().fold(0, |set, number| set | 1 << number)
}

/// The lines of /proc/PID/status: inheritable, permitted, effective, bounding, ambient, and whether
/// new privileges are forbidden.
fn rights_of(pid: i32) -> [u64; 6] {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs"].map(|key| {
        let line = status.lines().find(|line| line.starts_with(key)).unwrap();
        u64::from_str_radix(line.split_whitespace().last().unwrap(), 16).unwrap()
    })
}

/// Goal: keeper, first and later workers hold the rights they need and no others, and what root may
/// do through the mount still works.
pub fn rights() {
    // What this machine's root has at all.
    let here = rights_of(std::process::id() as i32)[3];
    let mount = Mount::over(&[]);
    let kept = bits(&[WORKER, START]) & here;
    let keeper = [0, kept, bits(&[KEEPER]) & here, kept, 0, 1];
    let worker = [0, bits(&[WORKER]) & here, bits(&[WORKER]) & here, kept, 0, 1];
    // A worker that took the place of a dead keeper.
    let successor = [0, bits(&[WORKER]) & here, bits(&[KEEPER]) & here, kept, 0, 1];
    let check = |keeper| {
        assert_eq!(rights_of(mount.keeper_pid()), keeper);
        assert_eq!(rights_of(mount.worker_pid()), worker);
        let script = "rm -rf *; echo x >f; chown 7:8 f; chmod 6755 f; touch -d 2001-01-01 f; \
            setpriv --reuid 7 --regid 8 --clear-groups sh -c 'echo mine >>f'; ln f g; \
            setfattr -n trusted.t -v x f; getfattr --only-values -n trusted.t f; \
            mknod null c 1 3; mkdir -m 700 d; chown 9 d; echo y >d/y; stat -c '%u:%g' f null d/y";
        assert_eq!(sh(mount.path(), script), "x7:8\n0:0\n0:0\n");
    };
    check(keeper);
    let kill = |first, now: &dyn Fn() -> i32| {
        // SAFETY: a process of this test's own.
        unsafe { libc::kill(first, libc::SIGKILL) };
        let until = std::time::Instant::now() + SOON;
        while now() == first {
            assert!(std::time::Instant::now() < until, "no other came");
        }
    };
    kill(mount.worker_pid(), &|| mount.worker_pid());
    check(keeper);
    let last = mount.worker_pid();
    kill(mount.keeper_pid(), &|| mount.keeper_pid());
    mount.wait_for("another worker", |status| status["worker_pid"] != last);
    check(successor);
    mount.umount_clean();
}

/// Goal: the keeper of a user namespace keeps what it unmounts with, its worker nothing to use: it
/// has it only for the keeper that it may become, which is as the first one.
pub fn in_a_namespace() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    // By `run`, where the user stays himself: he has one right, and not for his worker.
    let script = r#"
        "$0" run --over out -- sh -c '
            pid() {
                "$0" status --json out | sed -n "s/.*\"$1_pid\": \([0-9]*\).*/\1/p"
            }
            rights() {
                for who in keeper worker; do
                    sed -n "/^CapInh\|^CapPrm\|^CapEff\|^CapAmb\|^NoNewPrivs/s/.*:\t//p" \
                        /proc/$(pid $who)/status
                done
            }
            echo x >out/f; rights
            first=$(pid keeper) last=$(pid worker); kill -9 $first
            until [ $(pid keeper) != $first ] && [ $(pid worker) != $last ]; do sleep 0.02; done
            rights' "$0"; cat out/f"#;
    let mut command = Command::new("sh");
    command.args(["-ec", script, PROGRAM]).current_dir(dir.path());
    // SAFETY: reads the effective user id.
    if unsafe { libc::geteuid() } == 0 {
        // Root makes no user namespace of his own accord.
        command = Command::new("unshare");
        let user = ["--user", "--map-user=1000", "--map-group=1000", "sh", "-ec", script, PROGRAM];
        command.args(user).current_dir(dir.path());
    }
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let (none, admin) = ("0000000000000000", "0000000000200000");
    let keeper = format!("{none}\n{admin}\n{admin}\n{none}\n1\n");
    let worker = format!("{none}\n{admin}\n{none}\n{none}\n1\n");
    let wanted = format!("{keeper}{worker}{keeper}{worker}x\n");
    assert_eq!(said, wanted, "{}", text(&output));
}

/// Goal: no process of an ordinary user, not even of the one whose daemon it is, gets at the
/// descriptors or the memory of keeper and worker; the daemon still works.
pub fn memory() {
    // /dev/fuse may be root's alone here: a node of the test's own, seen by nobody else.
    let script = r#"
        program=$1; mount -t tmpfs t /mnt; cd /mnt; mknod fuse c 10 229; chmod 666 fuse
        mount --bind fuse /dev/fuse; cp "$program" coalescefs; chmod 755 . coalescefs
        mkdir out home; chown 5:60 out home
        user="setpriv --reuid 5 --regid 60 --clear-groups env HOME=/mnt/home"
        $user ./coalescefs mount --memory 64M out
        $user ./coalescefs status --json out >status
        for who in keeper worker; do
            pid=$(sed -n "s/.*\"${who}_pid\": \([0-9]*\).*/\1/p" status)
            for uid in 5 54321; do
                setpriv --reuid $uid --regid 60 --clear-groups sh -c '
                    for file in fd map_files mem maps environ fd/0; do
                        if ls /proc/$1/$file/. >/dev/null 2>&1 || head -c1 /proc/$1/$file >/dev/null 2>&1
                        then echo "$2: $3 reaches $file"; fi
                    done' sh $pid $who $uid
            done
        done
        $user sh -c 'seq 1 1000 >out/f; rm -f out/none'; $user ./coalescefs umount out; wc -l <out/f"#;
    let output = Command::new("unshare")
        .args(["-m", "--propagation", "private", "sh", "-c", script, "sh", PROGRAM])
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "1000\n", "{}", text(&output));
}
