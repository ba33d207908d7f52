//! `--lanes auto` on an engine.

use std::fs;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::engine::Engine;
use crate::support::{Mount, records};

const PROGRAMS: usize = 8;
const FILE_BYTES: usize = 8 << 20;
/// A lane more is tried every half a minute at first, and only while there is something to write.
const LONG: Duration = Duration::from_secs(400);

/// Goal: while there is much to write a lane more is tried; whatever is found out, the number that
/// `status` tells stays in its bounds, and the bytes are right. How many are kept depends on the
/// machine.
pub fn lanes_are_tried(name: &str) {
    let options = ["--lanes", "auto", "--memory", "64M", "--chunk", "1M"];
    let (mount, engine) = Engine::mounted(name, &options);
    let sources = tempfile::tempdir().unwrap();
    let content = |number: usize| records(number, FILE_BYTES / 10);
    for number in 0..PROGRAMS {
        fs::write(sources.path().join(number.to_string()), content(number)).unwrap();
    }
    let stop = sources.path().join("stop");
    let programs: Vec<Program> = (0..PROGRAMS)
        .map(|number| {
            let source = sources.path().join(number.to_string());
            let loops =
                r#"until [ -e "$0" ]; do dd if="$1" of="$2" bs=64K conv=notrunc status=none; done"#;
            let mut bash = Command::new("bash");
            let bash = bash.args(["-ec", loops]).arg(&stop).arg(source);
            Program(bash.arg(mount.path().join(format!("f{number}"))).spawn().unwrap())
        })
        .collect();
    let until = Instant::now() + LONG;
    while lanes(&mount).is_none_or(|lanes| lanes < 2) {
        assert!(Instant::now() < until, "no lane more was tried: {:#}", mount.status());
        std::thread::sleep(Duration::from_millis(50));
    }
    fs::write(&stop, "").unwrap();
    for mut program in programs {
        assert!(program.0.wait().unwrap().success());
    }
    mount.umount_clean();
    for number in 0..PROGRAMS {
        let found = fs::read(engine.files().join(format!("f{number}"))).unwrap();
        assert!(found == content(number), "f{number}: {} bytes", found.len());
    }
}

/// Those of the engine, as soon as it was written to.
fn lanes(mount: &Mount) -> Option<u64> {
    let status = mount.status();
    assert_eq!(status["config"]["lanes_auto"], true, "{status:#}");
    let lanes = status["disks"][0]["lanes"].as_u64()?;
    assert!((1..=8).contains(&lanes), "{status:#}");
    Some(lanes)
}

/// Ends with the test, whatever becomes of that.
pub struct Program(pub Child);

impl Drop for Program {
    fn drop(&mut self) {
        // Not waited for: it may hang until the mount is gone.
        let _ = self.0.kill();
    }
}
