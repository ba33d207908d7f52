//! Goal: requests get their answers, and no client can make the server wait, grow or stop.
//! Method: a server on an abstract address of the test's own, raw lines over a socket.

use std::os::fd::IntoRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::*;
use crate::config::MountConfig;

struct Fake;

fn status() -> Status {
    let config = MountConfig::for_tests(Path::new("/b"), 1 << 26);
    Status { backlog_bytes: 7, ..Status::of(config) }
}

impl Source for Fake {
    fn status(&self) -> Status {
        status()
    }

    fn files(&self) -> Vec<FileStatus> {
        use std::os::unix::ffi::OsStringExt;
        vec![FileStatus {
            id: 9,
            path: PathBuf::from(std::ffi::OsString::from_vec(b"odd\xff".to_vec())),
            backlog_bytes: 1,
            oldest_age_ms: None,
            open: true,
            error: None,
            failure: None,
        }]
    }

    fn upgrade(&self, program: &Path, tell: &mut dyn FnMut(Answer)) {
        assert_eq!(program, Path::new("/p"));
        tell(Answer::Upgrading);
    }

    fn discard(&self, id: u64, force: bool) -> Answer {
        Answer::Failed { message: format!("{id} {force}") }
    }

    fn drain(&self, id: Option<u64>, progress: &mut dyn FnMut(Answer) -> bool) {
        progress(Answer::Progress { backlog_bytes: id.unwrap_or(0) });
        progress(Answer::Done);
    }

    fn umount(&self, _: bool, progress: &mut dyn FnMut(Answer) -> bool) {
        for backlog_bytes in [2, 1] {
            assert!(progress(Answer::Progress { backlog_bytes }));
        }
        progress(Answer::Done);
    }
}

fn start(name: &str) -> SocketAddr {
    let name = format!("coalescefs-test-{name}-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(name).unwrap();
    let listener = UnixListener::bind_addr(&address).unwrap();
    let fd = listener.into_raw_fd();
    std::thread::spawn(move || serve(fd, Arc::new(Fake)));
    address
}

fn connect(address: &SocketAddr) -> BufReader<UnixStream> {
    let stream = UnixStream::connect_addr(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    BufReader::new(stream)
}

fn ask(stream: &mut BufReader<UnixStream>, line: &str) -> Answer {
    stream.get_mut().write_all(line.as_bytes()).unwrap();
    next(stream).expect("an answer")
}

fn next(stream: &mut BufReader<UnixStream>) -> Option<Answer> {
    let mut line = String::new();
    stream.read_line(&mut line).unwrap();
    (!line.is_empty()).then(|| serde_json::from_str(&line).unwrap())
}

#[test]
fn each_request_gets_its_answer() {
    let address = start("requests");
    let mut stream = connect(&address);
    let answer = ask(&mut stream, "{\"request\":\"status\"}\n");
    assert!(matches!(answer, Answer::Status(status) if status.backlog_bytes == 7));
    let answer = ask(&mut stream, "{\"request\":\"files\"}\n");
    let Answer::Files { files } = answer else { panic!("{answer:?}") };
    assert_eq!(files[0].path, PathBuf::from("odd\u{fffd}"), "a name that is not UTF-8 travels");
    let answer = ask(&mut stream, "{\"request\":\"discard\",\"id\":7,\"force\":true}\n");
    assert!(matches!(answer, Answer::Failed { message } if message == "7 true"));
    let answer = ask(&mut stream, "{\"request\":\"umount\"}\n");
    assert!(matches!(answer, Answer::Progress { backlog_bytes: 2 }));
    assert!(matches!(next(&mut stream), Some(Answer::Progress { backlog_bytes: 1 })));
    assert!(matches!(next(&mut stream), Some(Answer::Done)));
    wait_for_clients();
}

#[test]
fn nonsense_is_answered_and_the_connection_goes_on() {
    let address = start("nonsense");
    let mut stream = connect(&address);
    assert!(matches!(ask(&mut stream, "what?\n"), Answer::Failed { .. }));
    assert!(matches!(ask(&mut stream, "{\"request\":\"status\"}\n"), Answer::Status(_)));
}

#[test]
fn an_endless_line_ends_the_connection() {
    let address = start("endless");
    let mut stream = connect(&address);
    stream.get_mut().write_all(&vec![b'x'; REQUEST_BYTES_MAX as usize]).unwrap();
    let mut line = Vec::new();
    // Closed; a reset when the server had not read everything.
    assert!(matches!(stream.read_until(b'\n', &mut line), Ok(0) | Err(_)));
    assert!(matches!(ask(&mut connect(&address), "{\"request\":\"status\"}\n"), Answer::Status(_)));
}

#[test]
fn silent_connections_are_bounded_and_do_not_block_for_ever() {
    let address = start("silent");
    let silent: Vec<_> = (0..CONNECTIONS_MAX).map(|_| connect(&address)).collect();
    let waiting = std::thread::spawn(move || {
        let mut stream = connect(&address);
        ask(&mut stream, "{\"request\":\"status\"}\n")
    });
    std::thread::sleep(Duration::from_millis(200));
    assert!(load().connections <= CONNECTIONS_MAX + 4, "those of other tests included");
    drop(silent);
    assert!(matches!(waiting.join().unwrap(), Answer::Status(_)));
}

/// A worker that is killed while it answers resets the connection; the client asks the next one.
#[test]
fn a_client_asks_again_when_the_connection_breaks() {
    use crate::control::{address, client::Client};
    use crate::mount::mountinfo::{Device, Mount};

    let device = Device { major: u32::MAX, minor: std::process::id() };
    let listener = UnixListener::bind_addr(&address::of_mount(device, 0)).unwrap();
    let worker = std::thread::spawn(move || {
        for deaths in 0..3 {
            let mut stream = BufReader::new(listener.accept().unwrap().0);
            if deaths == 0 {
                continue; // with the request unread: a reset
            }
            stream.read_line(&mut String::new()).unwrap();
            if deaths == 1 {
                continue; // no answer: the end of the stream
            }
            let mut line = serde_json::to_vec(&Answer::Status(Box::new(status()))).unwrap();
            line.push(b'\n');
            stream.get_mut().write_all(&line).unwrap();
        }
    });
    let mount = Mount {
        id: 1,
        parent: 1,
        device,
        root: "/".into(),
        mount_point: "/m".into(),
        fs_type: crate::mount::FS_TYPE.into(),
        source: "/b".into(),
        super_options: std::ffi::OsString::new(),
    };
    let client = Client::connect_to(mount).unwrap();
    assert_eq!(client.status().backlog_bytes, 7);
    worker.join().unwrap();
}
