//! Goal: `top` shows a mount on a screen of 80x24, and leaves the terminal as it was, whichever way it
//! ends.

use super::terminal::Terminal;
use super::*;

/// As the screen has it. On a slow machine even the only write may have waited; there is no other.
fn longest_wait(mountpoint: &str) -> String {
    let output = coalescefs(&["status", "--json", mountpoint]);
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    match status["longest_wait_ms"].as_u64().unwrap() {
        0 => "longest ever none;".to_owned(),
        ms if ms < 1000 => format!("longest ever {ms}ms;"),
        ms => format!("longest ever {}s", ms / 1000),
    }
}

pub fn the_terminal_is_put_back() {
    let scene = Scene::new(&["b"]);
    let b = &scene.at("b");
    succeed(&["mount", "--max-age", "1h", b]);
    // Open, so that it stays in memory; that one descriptor is closed hands over what was written.
    let mut open = fs::File::create(scene.at("b/OUTPUT1")).unwrap();
    std::io::Write::write_all(&mut open, &[1; 5000]).unwrap();
    drop(open.try_clone().unwrap());
    let pid = scene.at("pid");
    let ended_by_key = |key: &'static str| {
        move |terminal: &Terminal, _: &str| drop(terminal.tmux(&["send-keys", key]))
    };
    let ended_by_signal = |_: &Terminal, pid: &str| {
        let pid = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        kill(pid, libc::SIGTERM);
    };
    type End<'a> = (&'a str, i32, Box<dyn Fn(&Terminal, &str)>);
    let mut ends: Vec<End<'_>> = vec![
        ("", 0, Box::new(ended_by_key("q"))),
        ("", 0, Box::new(ended_by_key("C-c"))),
        ("", 0, Box::new(ended_by_signal)),
    ];
    if cfg!(debug_assertions) {
        ends.push(("COALESCEFS_TOP_PANICS=1", 134, Box::new(|_, _| {})));
    }
    for (number, (variable, code, end)) in ends.into_iter().enumerate() {
        // One of its own: the one before may still be ending.
        let terminal = Terminal::new(&scene, &format!("tmux{number}"));
        let [before, after] = ["before", "after"].map(|name| scene.at(name));
        // By exec, so that the shell's number is that of the program; the shell says what came of it.
        let top =
            format!("RUST_BACKTRACE=0 {variable} sh -c 'echo $$ >{pid}; exec {PROGRAM} top {b}'");
        terminal.type_line(&format!(
            "stty -g >{before}; {top}; echo ended=$?; stty -g >{after}; echo all=over"
        ));
        if variable.is_empty() {
            let screen = terminal.wait_for("q quit");
            let longest = longest_wait(b);
            for part in ["backlog", "memory", "lanes: idle", longest.as_str(), "OUTPUT1"] {
                assert!(screen.contains(part), "no '{part}' in\n{screen}");
            }
            assert_eq!(
                (terminal.state("alternate_on"), terminal.state("cursor_flag")),
                ("1".into(), "0".into())
            );
        }
        end(&terminal, &pid);
        let screen = terminal.wait_for("\nall=over");
        assert!(screen.contains(&format!("\nended={code}\n")), "{screen}");
        assert_eq!(code == 134, screen.contains("panicked at"), "{screen}");
        assert!(!screen.contains("q quit"), "{screen}");
        assert_eq!(terminal.state("alternate_on"), "0", "{screen}");
        assert_eq!(terminal.state("cursor_flag"), "1", "{screen}");
        let [before, after] = [before, after].map(|name| fs::read_to_string(name).unwrap());
        assert_eq!(before, after);
    }
    drop(open);
    succeed(&["umount", b]);
}

/// Goal: with its terminal gone it ends, and does not look for keys for ever.
pub fn the_terminal_goes_away() {
    let scene = Scene::new(&["b"]);
    let (b, pid) = (&scene.at("b"), &scene.at("pid"));
    succeed(&["mount", b]);
    let terminal = Terminal::new(&scene, "tmux");
    // The shell keeps it from being told by a signal.
    terminal
        .type_line(&format!("(trap '' HUP; exec sh -c 'echo $$ >{pid}; exec {PROGRAM} top {b}')"));
    terminal.wait_for("q quit");
    let pid: u32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    drop(terminal);
    let begun = Instant::now();
    while is_running(pid) {
        assert!(begun.elapsed() < PATIENCE, "{pid} goes on");
        std::thread::sleep(Duration::from_millis(20));
    }
    succeed(&["umount", b]);
}

/// Whether a process is there and has not ended.
fn is_running(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
}
