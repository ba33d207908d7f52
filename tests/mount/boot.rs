//! What stands in `mount-scripts`: helpers of mount(8) and umount(8), units, and the ways to start
//! without systemd, all run as whoever installs them would have them run.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::mpsc::channel;

use super::keepers::{number, status_of, wait_until};
use super::stored::Service;
use crate::support::{PROGRAM, SOON, is_mounted, processes_of, records, sh, succeed, text};

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-scripts").join(name)
}

fn run(name: &str, arguments: &[&Path], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(script(name));
    command.args(arguments).env("COALESCEFS", PROGRAM).envs(variables.iter().copied());
    command.output().unwrap()
}

/// Goal: ro, nosuid, nodev and noexec given to the helper hold for the mount, whatever the backing
/// filesystem allows, and what is for fstab and systemd is passed over; umount's helper leaves all
/// bytes below.
pub fn generic_options_hold() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    sh(&out, "cp /bin/true program; echo x >f; mknod null c 1 3");
    let mount = |options: &str| {
        let list = Path::new(options);
        let said = run("mount.coalescefs", &[&out, &out, Path::new("-o"), list], &[]);
        assert!(said.status.success(), "{}", text(&said));
    };
    let umount = || {
        let said = run("umount.coalescefs", &[&out], &[]);
        assert!(said.status.success(), "{}", text(&said));
        assert!(!is_mounted(&out) && processes_of(&out).is_empty());
    };
    mount("memory=64M,ro,nofail,_netdev,x-systemd.mount-timeout=30min");
    let refused = Command::new("touch").arg(out.join("new")).output().unwrap();
    assert!(text(&refused).contains("Read-only file system"), "{}", text(&refused));
    assert_eq!(fs::read(out.join("f")).unwrap(), b"x\n");
    umount();
    mount("rw,exec,noexec,nosuid,nodev,noatime,memory=64M,max_age=1h");
    let refused = Command::new(out.join("program")).output();
    assert_eq!(refused.unwrap_err().raw_os_error(), Some(libc::EACCES));
    assert_eq!(fs::read(out.join("null")).unwrap_err().raw_os_error(), Some(libc::EACCES));
    let table = sh(dir.path(), "grep out.*fuse.coalescefs /proc/self/mountinfo");
    for flag in ["noexec", "nosuid", "nodev", "noatime"] {
        assert!(table.contains(flag), "{table}");
    }
    fs::write(out.join("new"), records(1, 5000)).unwrap();
    umount();
    assert!(fs::read(out.join("new")).unwrap() == records(1, 5000));
    mount("memory=64M");
    succeed(&mut Command::new(out.join("program")));
    umount();
}

/// Goal: the umount helper does not end a mount in use, and says so by umount(8)'s code.
pub fn the_umount_helper_leaves_a_mount_in_use() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    assert!(run("mount.coalescefs", &[&out, &out], &[]).status.success());
    let file = File::create(out.join("f")).unwrap();
    let busy = run("umount.coalescefs", &[&out], &[]);
    assert_eq!(busy.status.code(), Some(32), "{}", text(&busy));
    assert!(is_mounted(&out));
    drop(file);
    assert!(run("umount.coalescefs", &[&out, Path::new("-v")], &[]).status.success());
    assert!(!is_mounted(&out));
}

/// Goal: what mount(8) and umount(8) may say to their helpers beside options is understood, and an
/// option that is not is named.
pub fn helpers_understand_mount_and_umount() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("out");
    fs::create_dir(&out).unwrap();
    let mount = |words: &[&str]| {
        let words = words.iter().map(Path::new);
        run("mount.coalescefs", &[&*out, &*out].into_iter().chain(words).collect::<Vec<_>>(), &[])
    };
    let fake = mount(&["-f", "-o", "memory=64M"]);
    assert!(fake.status.success() && !is_mounted(&out), "{}", text(&fake));
    let unknown = mount(&["-o", "memory=64M,speed=9"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(text(&unknown).contains("option 'speed=9'") && !is_mounted(&out), "{}", text(&unknown));
    let rules = "rule=*.{dat;raw}:chunk=1M;priority=high,rule=*.log:coalesce=off";
    let sloppy = mount(&["-s", "-n", "-o", &format!("memory=64M,speed=9,{rules}")]);
    assert!(sloppy.status.success() && is_mounted(&out), "{}", text(&sloppy));
    let rules = &status_of(&out)["config"]["rules"];
    assert_eq!(rules[0]["glob"], "*.{dat,raw}", "{rules}");
    assert_eq!(
        (&rules[0]["chunk_bytes"], &rules[0]["priority"]),
        (&(1 << 20).into(), &"high".into())
    );
    assert_eq!(rules[1]["coalesce"], false, "{rules}");
    // In use: -l unmounts all the same, and what is open goes on.
    let mut file = File::create(out.join("f")).unwrap();
    let lazy = run("umount.coalescefs", &[&out, Path::new("-l")], &[]);
    assert!(lazy.status.success() && !is_mounted(&out), "{}", text(&lazy));
    std::io::Write::write_all(&mut file, b"more").unwrap();
    drop(file);
    wait_until("the daemon to end", || processes_of(&out).is_empty());
    assert_eq!(fs::read(out.join("f")).unwrap(), b"more");
}

/// Goal: whatever `mount` takes can stand in fstab, and is named where its user looks.
pub fn every_option_can_stand_in_fstab() {
    let said = |words: &[&str]| {
        String::from_utf8(succeed(Command::new(PROGRAM).args(words)).stdout).unwrap()
    };
    let help = said(&["mount", "--help"]);
    let words = help.split(|letter: char| !letter.is_alphanumeric() && letter != '-');
    let here = ["help", "foreground", "mount-options"];
    let options = words.filter_map(|word| word.strip_prefix("--")).filter(|it| !here.contains(it));
    let options: Vec<String> = options.map(|option| option.replace('-', "_")).collect();
    assert!(options.len() > 10, "{options:?}");
    let texts = [said(&["help", "fstab"])].into_iter().chain(
        ["mount.coalescefs", "mount.coalescefs.8"]
            .map(|it| fs::read_to_string(script(it)).unwrap()),
    );
    for text in texts {
        let is_end = |letter: char| !letter.is_alphanumeric() && letter != '_';
        let known: Vec<&str> = text.split(is_end).collect();
        for option in &options {
            assert!(known.contains(&option.as_str()), "no {option} in\n{text}");
        }
    }
}

/// Goal: the ways without systemd leave all bytes below and have the command's exit code.
pub fn starts_run_without_systemd() {
    let dir = tempfile::tempdir().unwrap();
    let job = dir.path().join("nobody/42");
    fs::create_dir_all(&job).unwrap();
    let at = job.to_str().unwrap();
    let write = |name: &str| {
        format!(
            "seq 1 1000 >{at}/{name}; grep -q \" {at} .*coalescefs\" /proc/self/mountinfo || exit 9; exit 3"
        )
    };
    let variables = [("OUT", at), ("OPTIONS", "--max-age 1h --memory 64M"), ("MEMORY", "64M")];
    let line = write("container");
    let words = ["sh", "-c", &line].map(Path::new);
    let said = run("container-entrypoint", &words, &variables);
    assert_eq!(said.status.code(), Some(3), "{}", text(&said));
    let line = write("batch");
    let words = [at, "sh", "-c", &line].map(Path::new);
    assert_eq!(run("batch-run", &words, &variables).status.code(), Some(3));
    let slurm = [
        ("OUTPUT_ROOT", dir.path().to_str().unwrap()),
        ("SLURM_JOB_USER", "nobody"),
        ("SLURM_JOB_ID", "42"),
        ("MEMORY", "64M"),
    ];
    let prolog = run("slurm-prolog", &[], &slurm);
    assert!(prolog.status.success() && is_mounted(&job), "{}", text(&prolog));
    fs::write(job.join("slurm"), records(3, 5000)).unwrap();
    for _ in 0..2 {
        let epilog = run("slurm-epilog", &[], &slurm);
        assert!(epilog.status.success() && !is_mounted(&job), "{}", text(&epilog));
    }
    assert!(fs::read(job.join("slurm")).unwrap() == records(3, 5000));
    for name in ["container", "batch"] {
        assert_eq!(fs::read_to_string(job.join(name)).unwrap().lines().count(), 1000, "{name}");
    }
}

/// Goal: tasks of a job array that run on one node at the same time keep their outputs in one
/// directory.
pub fn tasks_of_an_array_share_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let task = |number: u32| {
        let number = number.to_string();
        let variables = [("OUT", out), ("MEMORY", "64M"), ("SLURM_ARRAY_TASK_ID", &number)];
        let words = ["sh", "-c", "seq 1 5000; exit $(($SLURM_ARRAY_TASK_ID + 3))"].map(Path::new);
        run("slurm-array", &words, &variables).status.code()
    };
    std::thread::scope(|scope| {
        let tasks: Vec<_> = (0..3).map(|number| scope.spawn(move || task(number))).collect();
        for (number, task) in (0..).zip(tasks) {
            assert_eq!(task.join().unwrap(), Some(number + 3));
        }
    });
    for number in 0..3 {
        let bytes = fs::read_to_string(dir.path().join(format!("OUTPUT{number}"))).unwrap();
        assert_eq!(bytes.lines().count(), 5000);
    }
}

/// Goal: the mount of the pod's sidecar reaches the container beside it, which writes through it, and
/// SIGTERM stores everything.
/// Method: namespaces whose mounts are propagated as the pod's are, and the sidecar's own arguments.
pub fn a_sidecar_serves_its_neighbour() {
    const PODS: &str = r#"
mount --bind "$volume" "$volume"
mount --make-shared "$volume"
unshare -m --propagation slave timeout 60 sh -c '
    until grep -q " $volume/out .*coalescefs" /proc/self/mountinfo; do sleep 0.05; done
    seq 1 1000 >"$volume/out/f"' &
neighbour=$!
"$@" &
sidecar=$!
wait $neighbour && kill -TERM $sidecar && wait $sidecar
"#;
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("out")).unwrap();
    let volume = dir.path().to_str().unwrap();
    let pod = fs::read_to_string(script("kubernetes.yaml")).unwrap();
    let args = pod.lines().find_map(|line| line.trim().strip_prefix("args: ")).unwrap();
    let args: Vec<String> = serde_json::from_str(args).unwrap();
    assert!(args.contains(&"/volume/out".into()), "{args:?}");
    let mut pods = Command::new("unshare");
    pods.args(["-m", "--propagation", "private", "sh", "-c", PODS, "sh", PROGRAM]);
    pods.args(args.iter().map(|word| word.replace("/volume", volume).replace("1G", "64M")));
    succeed(pods.env("volume", volume));
    let stored = fs::read_to_string(dir.path().join("out/f")).unwrap();
    assert_eq!(stored.lines().count(), 1000);
}

/// Goal: shellcheck finds nothing in any script.
pub fn scripts_are_clean() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let scripts = sh(root, "grep -rlE '^#!.*(sh|bash)$' mount-scripts tests .ci");
    assert!(scripts.lines().count() > 8, "{scripts}");
    let said = Command::new("shellcheck").args(scripts.lines()).current_dir(root).output().unwrap();
    assert!(said.status.success(), "{}", text(&said));
}

/// Goal: systemd takes the units as they are.
pub fn units_are_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let unit = fs::read_to_string(script("coalescefs@.service")).unwrap();
    let here = format!("ExecStart={PROGRAM} ");
    assert!(unit.contains("ExecStart=coalescefs "), "{unit}");
    let unit = unit.replace("ExecStart=coalescefs ", &here);
    fs::write(dir.path().join("coalescefs@.service"), unit).unwrap();
    fs::copy(script("srv-out.mount"), dir.path().join("srv-out.mount")).unwrap();
    let mut verify = Command::new("systemd-analyze");
    verify.args(["verify", "--man=no", "coalescefs@srv-out.service", "srv-out.mount"]);
    let said = verify.current_dir(dir.path()).output().unwrap();
    assert!(said.status.success() && said.stderr.is_empty(), "{}", text(&said));
}

/// Why the scripts cannot be checked here, if they cannot.
pub fn cannot_check_scripts() -> Option<String> {
    cannot_run("shellcheck")
}

/// Why the units cannot be checked here, if they cannot.
pub fn cannot_check_units() -> Option<String> {
    cannot_run("systemd-analyze")
}

fn cannot_run(program: &str) -> Option<String> {
    let tried = Command::new(program).arg("--version").output();
    (!tried.is_ok_and(|tried| tried.status.success())).then(|| format!("no {program}"))
}

/// Goal: the manager is told the backlog and signs of life, and while the end takes long, that it
/// needs time.
pub fn the_manager_is_told_how_it_goes() {
    let told =
        [("MANAGER_TELLS", "WATCHDOG,STATUS,EXTEND_TIMEOUT_USEC"), ("WATCHDOG_USEC", "1000000")];
    let options = ["--drain-rate", "2M", "--memory", "64M"];
    let service =
        Service::start_with(|dir| dir.join("n").to_str().unwrap().into(), &told, &options);
    service.expect_soon("ready 7");
    let file = File::create(service.out().join("f")).unwrap();
    file.write_all_at(&vec![1; 6 << 20], 0).unwrap();
    drop(file);
    service.expect_soon("WATCHDOG 1");
    service.terminate();
    service.expect_soon("STATUS ending: ");
    service.expect_soon("EXTEND_TIMEOUT_USEC 30000000");
    service.expect_soon("ended 0 0");
    assert_eq!(fs::metadata(service.out().join("f")).unwrap().len(), 6 << 20);
}

/// Goal: where the unit has a watchdog, a worker that hangs is replaced, and programs go on; the
/// service is not started anew.
pub fn a_worker_that_hangs_is_replaced() {
    let watchdog = [("WATCHDOG_USEC", "2000000")];
    let service = Service::start_with(|dir| dir.join("n").to_str().unwrap().into(), &watchdog, &[]);
    service.expect_soon("ready 7");
    let out = service.out();
    fs::write(out.join("f"), records(1, 1000)).unwrap();
    let [keeper, worker] = service.pids();
    // SAFETY: the worker of this test's own mount.
    unsafe { libc::kill(worker, libc::SIGSTOP) };
    let (done, read) = channel();
    let path = out.join("not-there");
    std::thread::spawn(move || done.send(fs::metadata(path).unwrap_err().raw_os_error()));
    assert_eq!(read.recv_timeout(SOON).unwrap(), Some(libc::ENOENT), "nobody took its place");
    wait_until("another worker", || service.pids()[1] != worker);
    assert_eq!(service.pids()[0], keeper);
    assert_eq!(number(&status_of(&out), "worker_restarts"), 1);
    assert!(fs::read(out.join("f")).unwrap() == records(1, 1000));
    service.terminate();
    service.expect_soon("ended 0 0");
}
