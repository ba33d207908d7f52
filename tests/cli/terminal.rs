//! A terminal of tmux, which tells its screen and its state; and `run` in one.

use super::*;

/// Why there is no terminal here, if there is none.
pub fn cannot_use_tmux() -> Option<String> {
    let tried = Command::new("tmux").arg("-V").stdout(Stdio::null()).status();
    (!tried.is_ok_and(|status| status.success())).then(|| "no tmux".to_owned())
}

/// A terminal with a shell, of a server of its own.
pub struct Terminal {
    socket: String,
}

impl Terminal {
    pub fn new(scene: &Scene, name: &str) -> Terminal {
        let terminal = Terminal { socket: scene.at(name) };
        let size = ["-x", "80", "-y", "24"];
        terminal.tmux(&[&["new-session", "-d"], &size[..], &["env", "PS1=$ ", "sh"]].concat());
        terminal
    }

    pub fn tmux(&self, arguments: &[&str]) -> String {
        let mut tmux = Command::new("tmux");
        tmux.args(["-u", "-f", "/dev/null", "-S", &self.socket]).args(arguments);
        let output = tmux.env_remove("TMUX").output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn screen(&self) -> String {
        self.tmux(&["capture-pane", "-p"])
    }

    /// What tmux knows by a name.
    pub fn state(&self, name: &str) -> String {
        self.tmux(&["display-message", "-p", &format!("#{{{name}}}")]).trim().to_owned()
    }

    pub fn type_line(&self, line: &str) {
        self.tmux(&["send-keys", "-l", line]);
        self.tmux(&["send-keys", "Enter"]);
    }

    /// Waits for a screen that has this.
    #[track_caller]
    pub fn wait_for(&self, words: &str) -> String {
        let begun = Instant::now();
        loop {
            let screen = self.screen();
            if screen.contains(words) {
                return screen;
            }
            assert!(begun.elapsed() < PATIENCE, "no '{words}' in\n{screen}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux").args(["-S", &self.socket, "kill-server"]).output();
    }
}

/// Goal: `run` in a terminal is as the command alone: it reads what is typed, Ctrl-Z stops both and `fg`
/// has them go on, Ctrl-C is the command's to answer, and its exit code is the shell's.
pub fn run_leaves_the_terminal_alone() {
    let scene = Scene::new(&["b"]);
    let terminal = Terminal::new(&scene, "tmux");
    terminal.type_line(&format!("cd {}", scene.at("")));
    let run = |script: &str| format!("{PROGRAM} run --over b -- sh -c '{script}'");
    let reads = "echo begun; while read x; do echo $x >>b/f; echo has=$x; done; exit 4";
    terminal.type_line(&run(reads));
    terminal.wait_for("\nbegun\n");
    terminal.type_line("one");
    terminal.wait_for("\nhas=one\n");
    terminal.tmux(&["send-keys", "C-z"]);
    terminal.wait_for("Stopped");
    terminal.type_line("echo stopped=$?");
    terminal.wait_for(&format!("\nstopped={}\n", 128 + libc::SIGTSTP));
    terminal.type_line("fg");
    terminal.type_line("two");
    terminal.wait_for("\nhas=two\n");
    terminal.tmux(&["send-keys", "C-d"]);
    terminal.type_line("echo ended=$?");
    terminal.wait_for("ended=4\n");
    assert_eq!(fs::read_to_string(scene.at("b/f")).unwrap(), "one\ntwo\n");

    terminal.type_line("clear");
    terminal.type_line(&run("trap \"exit 9\" INT; echo begun; sleep 60 & wait; exit 5"));
    terminal.wait_for("\nbegun\n");
    terminal.tmux(&["send-keys", "C-c"]);
    terminal.type_line("echo interrupted=$?");
    terminal.wait_for("interrupted=9\n");
    scene.wait_until_gone();
}
