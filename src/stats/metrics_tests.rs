//! Goal: what Prometheus' own tool accepts, and nothing that breaks its lines.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::config::MountConfig;
use crate::control::protocol::{DiskStatus, RecentDrain};

fn rendered() -> String {
    let mut config = MountConfig::for_tests(Path::new("/b"), 1 << 30);
    config.mountpoint = PathBuf::from("/odd \"name\"\\\n");
    let stats = Stats::default();
    stats.note_run(5 << 20, Duration::from_millis(30));
    stats.note_stall(Duration::from_micros(500));
    stats.note_stall(Duration::from_millis(120));
    render(&Status::of(config), &stats, "node-7")
}

#[test]
fn every_sample_says_where_it_is_from() {
    let text = rendered();
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    for line in samples {
        let labels = r#"{node="node-7",mount="/odd \"name\"\\\n""#;
        assert!(line.contains(labels), "{line}");
    }
    assert!(text.contains("coalescefs_drain_write_size_bytes_bucket{"));
}

#[test]
fn histograms_are_in_base_units() {
    let text = rendered();
    let value = |start: &str, part: &str| {
        let found = text.lines().find(|line| line.starts_with(start) && line.contains(part));
        found.and_then(|line| line.rsplit(' ').next()).map(str::to_owned)
    };
    assert_eq!(value("coalescefs_write_stall_seconds_sum", "").as_deref(), Some("0.12"));
    assert_eq!(value("coalescefs_write_stall_seconds_count", "").as_deref(), Some("1"));
    let bucket = "coalescefs_write_stall_seconds_bucket";
    assert_eq!(value(bucket, r#"le="0.1"}"#).as_deref(), Some("0"));
    assert_eq!(value(bucket, r#"le="0.15"}"#).as_deref(), Some("1"));
    assert_eq!(value("coalescefs_drain_write_duration_seconds_sum", "").as_deref(), Some("0.03"));
}

/// Goal: what the dashboard divides by is what all disks take together, so that parts stay below one.
#[test]
fn lanes_of_all_disks_count() {
    let mut status = Status::of(MountConfig::for_tests(Path::new("/b"), 1 << 30));
    let disk = |device: &str, lanes| DiskStatus {
        device: device.to_owned(),
        chunk_bytes: 1 << 20,
        lanes,
        positioning_us: None,
        bytes_per_s: None,
        engine: None,
        recent: RecentDrain::default(),
    };
    status.disks = vec![disk("8:1", 1), disk("0:51", 4)];
    let text = render(&status, &Stats::default(), "node-7");
    let lanes = text.lines().find(|line| line.starts_with("coalescefs_lanes{")).unwrap();
    assert!(lanes.ends_with(" 5"), "{lanes}");
}

/// Goal: each query of the dashboard asks for something that is there.
#[test]
fn the_dashboard_asks_for_metrics_that_exist() {
    let dashboard = Path::new(env!("CARGO_MANIFEST_DIR")).join("mount-scripts/grafana.json");
    let dashboard = std::fs::read_to_string(dashboard).unwrap();
    let dashboard: serde_json::Value = serde_json::from_str(&dashboard).unwrap();
    let text = rendered();
    let metrics: Vec<&str> = text
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split('{').next())
        .collect();
    let panels = dashboard["panels"].as_array().unwrap();
    let targets = panels.iter().flat_map(|panel| panel["targets"].as_array().unwrap());
    let mut queries: Vec<&str> = targets.map(|target| target["expr"].as_str().unwrap()).collect();
    let variables = dashboard["templating"]["list"].as_array().unwrap();
    let of_labels = variables.iter().filter(|variable| variable["type"] == "query");
    queries.extend(of_labels.map(|variable| variable["query"].as_str().unwrap()));
    assert!(queries.len() > 10);
    for query in queries {
        let is_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let words = query.split(|c| !is_of_name(c));
        let names: Vec<&str> = words.filter(|word| word.contains("coalescefs")).collect();
        assert!(!names.is_empty(), "{query} asks for nothing of ours");
        for name in names {
            assert!(metrics.contains(&name), "{query}: no metric {name}");
        }
    }
}
