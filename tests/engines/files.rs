//! What programs leave on an engine, and what they hear when it cannot take more.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;

use crate::engine::{Engine, say};
use crate::support::{Mount, records, sh};

const PROGRAMS: usize = 40;
const RECORDS: usize = 4000;

/// Goal: forty programs, each of which copies the lines of a FIFO to its output one write() a line,
/// leave the same bytes on the engine as anywhere, as another client of it sees them.
pub fn pipeline(name: &str) {
    let (mount, engine) = Engine::mounted(name, &["--memory", "64M", "--chunk", "256K"]);
    let fifos = tempfile::tempdir().unwrap();
    let script = format!(
        r#"
        fifos={fifos}
        programs=()
        for n in $(seq 0 {last}); do
            mkfifo "$fifos/$n"
            awk -v n="$n" '{{ printf "%02d.%06d\n", n, $1; fflush() }}' <"$fifos/$n" >OUTPUT$n &
            programs+=($!)
        done
        seq 0 {last_record} | tee "$fifos"/* >/dev/null
        for program in "${{programs[@]}}"; do wait "$program"; done
        "#,
        fifos = fifos.path().display(),
        last = PROGRAMS - 1,
        last_record = RECORDS - 1,
    );
    sh(mount.path(), &script);
    mount.umount_clean();
    if name != "overlay" {
        engine.change_client();
    }
    for number in 0..PROGRAMS {
        let found = fs::read(engine.files().join(format!("OUTPUT{number}"))).unwrap();
        assert!(found == records(number, RECORDS), "OUTPUT{number}: {} bytes", found.len());
    }
}

/// What is left of the engine's room before the test writes.
const LEFT_BYTES: u64 = 40 << 20;
const FILE_BYTES: usize = 1 << 20;

/// Memory that is full before the engine is.
const LITTLE: [&str; 4] = ["--memory", "16M", "--chunk", "256K"];

/// Goal: on a full engine who got no room hears ENOSPC, and what fsync said is safe is stored, once
/// there is room again.
pub fn full(name: &str) {
    let engine = Engine::start_with(name, "320M");
    let filler = engine.root().join("filler");
    let filled =
        if name == "moosefs" { fill_servers(&engine, &filler) } else { fill(&engine, &filler) };
    // GlusterFS says EIO where one of the servers of a file has room and another one has none.
    filled.unwrap_or_else(|error| assert!([libc::ENOSPC, libc::EIO].contains(&code(&error))));
    let mount = engine.mount(&LITTLE);
    let safe = write_until_refused(&mount, &[libc::ENOSPC]);
    match name {
        // What is removed there makes room after minutes.
        "moosefs" => engine.order("grow"),
        _ => fs::remove_file(&filler).unwrap(),
    }
    mount.umount_clean();
    assert_safe(&engine, name, &safe);
}

/// Goal: the same of a directory that may hold so much and no more, by the engine's own quota.
pub fn quota(name: &str) {
    let engine = Engine::start(name);
    engine.limit(LEFT_BYTES);
    let mount = engine.mount(&LITTLE);
    let safe = write_until_refused(&mount, &[libc::ENOSPC, libc::EDQUOT]);
    engine.limit(LEFT_BYTES * 10);
    mount.umount_clean();
    assert_safe(&engine, name, &safe);
}

/// Files, each synced, until several were refused with one of these errors: others may have room.
/// Returns the numbers of those that are safe.
fn write_until_refused(mount: &Mount, errors: &[i32]) -> Vec<usize> {
    let content = records(7, FILE_BYTES / 10);
    let (mut safe, mut refused) = (Vec::new(), 0);
    for number in 0..400 {
        let path = mount.path().join(format!("f{number}"));
        let stored = File::create(&path).and_then(|mut file| {
            file.write_all(&content)?;
            file.sync_all()
        });
        match stored {
            Ok(()) => safe.push(number),
            Err(error) => {
                assert!(errors.contains(&code(&error)), "f{number}: {error}");
                let _ = fs::remove_file(&path);
                refused += 1;
            }
        }
        if refused == 5 {
            break;
        }
    }
    assert_eq!(refused, 5, "the engine was never full");
    assert!(safe.len() > 5, "{safe:?}");
    safe
}

/// They are on the engine, as another client sees it.
fn assert_safe(engine: &Engine, name: &str, safe: &[usize]) {
    if name != "overlay" {
        engine.change_client();
    }
    let content = records(7, FILE_BYTES / 10);
    for number in safe {
        let found = fs::read(engine.files().join(format!("f{number}"))).unwrap();
        assert!(found == content, "f{number} of {safe:?}: {} bytes", found.len());
    }
}

fn code(error: &io::Error) -> i32 {
    error.raw_os_error().unwrap_or(0)
}

/// Takes all of its room but for [`LEFT_BYTES`]; an engine that puts whole files on a part of its
/// disks is full before that.
fn fill(engine: &Engine, filler: &std::path::Path) -> io::Result<()> {
    let mut file = File::create(filler)?;
    let block = vec![1; 1 << 20];
    let free = || sh(&engine.root(), "echo $(($(stat -f -c '%a * %S' .)))");
    while free().trim().parse::<u64>().unwrap() > LEFT_BYTES {
        for _ in 0..8 {
            file.write_all(&block)?;
        }
        file.sync_all()?;
    }
    Ok(())
}

/// The same of MooseFS, which tells every minute how much room there is: three servers of 250 MiB, less
/// 64 MiB each, keep two copies.
fn fill_servers(engine: &Engine, filler: &std::path::Path) -> io::Result<()> {
    let all = "until [ $(($(stat -f -c '%b * %S' .))) -gt $((600 << 20)) ]; do sleep 0.2; done";
    sh(&engine.root(), all);
    let mut file = File::create(filler)?;
    for _ in 0..200 {
        file.write_all(&vec![1; 1 << 20])?;
    }
    file.sync_all()
}

/// Goal: when somebody removes a file on the engine past the mount, the bytes for it are either
/// stored in the file that has no name any more, or refused, kept and named; nobody hangs, nothing
/// else is hurt, and discarding it ends the matter.
pub fn removed_below(name: &str) {
    let (mount, engine) = Engine::mounted(name, &["--max-age", "1h", "--patience", "5s"]);
    let (gone, other) = (mount.path().join("gone"), mount.path().join("other"));
    let file = File::create(&gone).unwrap();
    file.write_all_at(&records(1, 1000), 0).unwrap();
    file.sync_all().unwrap();
    fs::remove_file(engine.files().join("gone")).unwrap();
    file.write_all_at(&records(1, 2000), 0).unwrap();
    let synced = file.sync_all();
    fs::write(&other, records(2, 1000)).unwrap();
    File::open(&other).unwrap().sync_all().unwrap();
    match synced {
        Ok(()) => drop(file),
        Err(error) => {
            let errno = error.raw_os_error().unwrap();
            assert!([libc::ESTALE, libc::ENOENT, libc::EIO].contains(&errno), "{error}");
            let words = say(&mount, &["status"]);
            assert!(words.contains("not stored: gone"), "{words}");
            drop(file);
            let refused = mount.umount();
            assert_eq!(refused.status.code(), Some(75), "{}", crate::support::text(&refused));
            fs::remove_file(&gone).ok();
        }
    }
    let ended = say(&mount, &["umount", "--discard"]);
    assert!(!crate::support::is_mounted(mount.path()), "{ended}");
    assert_eq!(fs::read(engine.files().join("other")).unwrap(), records(2, 1000));
}

/// Goal: where the engine's client lets nobody in but root, root's mount does not, either, unless told
/// to: nobody gets at more than without it.
pub fn private(_: &str) {
    let engine = Engine::start_private();
    fs::write(engine.files().join("secret"), "for root").unwrap();
    for (options, is_let_in) in [(&[][..], false), (&["--allow-other"][..], true)] {
        let mount = engine.mount(options);
        let read = |uid: &str| {
            let mut cat = std::process::Command::new("setpriv");
            cat.args(["--reuid", uid, "--clear-groups", "cat"]).arg(mount.path().join("secret"));
            cat.output().unwrap()
        };
        assert_eq!(read("0").stdout, b"for root");
        let other = read("65534");
        assert_eq!(
            other.status.success(),
            is_let_in,
            "{options:?}: {}",
            crate::support::text(&other)
        );
        mount.umount_clean();
    }
}
