//! Goal: what engines document, and what they answered when asked, is understood; what is broken is
//! refused; nothing makes a parser panic.

use std::os::fd::AsFd;

use proptest::prelude::*;

use super::*;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

fn layout(unit_bytes: u64, count: u32) -> Option<Layout> {
    Some(Layout { unit_bytes, count })
}

#[test]
fn engines_by_their_mounts() {
    let of = |fs_type: &str, source: &str| Engine::of(fs_type.as_bytes(), source.as_bytes());
    // As mountinfo had them, but for Lustre, BeeGFS and Ceph, which are from their documentation.
    assert_eq!(of("fuse", "mfs#198.18.21.118:9421"), Some(Engine::MooseFs));
    assert_eq!(of("fuse.glusterfs", "198.18.0.1:/vol"), Some(Engine::Gluster));
    assert_eq!(of("ceph", "10.0.0.1:6789:/"), Some(Engine::Ceph));
    assert_eq!(of("fuse.ceph-fuse", "ceph-fuse"), Some(Engine::Ceph));
    assert_eq!(of("lustre", "10.0.0.1@tcp:/scratch"), Some(Engine::Lustre));
    assert_eq!(of("beegfs", "beegfs_nodev"), Some(Engine::BeeGfs));
    for other in ["ext4", "nfs4", "fuse", "fuse.sshfs", "", "mfs#"] {
        assert_eq!(of(other, "server:/export"), None, "{other}");
    }
}

/// The values are those of Ceph's documentation, "File layouts", and of Red Hat's for `ceph.dir.layout`.
#[test]
fn layouts_of_ceph() {
    let of = |text: &str| ceph(text.as_bytes());
    let default = "stripe_unit=4194304 stripe_count=1 object_size=4194304 pool=cephfs_data";
    assert_eq!(of(default), layout(4 * MIB, 1));
    let two = "stripe_unit=4194304 stripe_count=2 object_size=4194304 pool=cephfs_data";
    assert_eq!(of(two), layout(4 * MIB, 2));
    let fine = "stripe_unit=1048576 stripe_count=8 object_size=10485760 pool=cephfs_data";
    assert_eq!(of(fine), layout(MIB, 8));
    let alone = "stripe_unit=65536 stripe_count=1 object_size=8388608 pool=a pool_namespace=b";
    assert_eq!(of(alone), layout(8 * MIB, 1), "units in one object lie one behind the other");
    for broken in [
        "",
        "stripe_count=1 pool=cephfs_data",
        "stripe_unit=4194304 stripe_count=x object_size=4194304",
        "stripe_unit=4194304 stripe_count=1 object_size=-1",
        "stripe_unit=4194304 stripe_count=1 object_size=99999999999999999999",
        "xstripe_count=1 xobject_size=4194304",
        "stripe_unit=100 stripe_count=3 object_size=300",
    ] {
        assert_eq!(of(broken), None, "{broken}");
    }
}

/// One component as lustre_user.h has it: magic, pattern, id of 16 bytes, bytes of a stripe, number of
/// stripes, and the first server or the generation; in `_v3` a pool of 16 bytes; then the objects.
fn component(magic: u32, pattern: u32, stripe_bytes: u32, count: u16) -> Vec<u8> {
    let mut bytes = [magic.to_le_bytes(), pattern.to_le_bytes()].concat();
    bytes.extend([0xAB; 16]);
    bytes.extend(stripe_bytes.to_le_bytes());
    bytes.extend(count.to_le_bytes());
    bytes.extend(0u16.to_le_bytes());
    if magic == 0x0BD3_0BD0 {
        bytes.extend(b"flash\0\0\0\0\0\0\0\0\0\0\0");
    }
    bytes.extend([0xCD; 24]);
    bytes
}

/// `lov_comp_md_v1` and an entry for each component, which begin at such offsets in the file.
fn composite(components: &[(u64, Vec<u8>)]) -> Vec<u8> {
    let total: usize = components.iter().map(|(_, bytes)| 48 + bytes.len()).sum();
    let mut bytes = [0x0BD6_0BD0u32, 32 + total as u32, 7].map(u32::to_le_bytes).concat();
    bytes.extend([0, components.len() as u16, 0, 0, 0, 0].map(u16::to_le_bytes).concat());
    bytes.extend(0u64.to_le_bytes());
    let mut at = 32 + 48 * components.len();
    for (index, (start, component)) in components.iter().enumerate() {
        bytes.extend([index as u32 + 1, 0x10].map(u32::to_le_bytes).concat());
        let end = components.get(index + 1).map_or(u64::MAX, |(next, _)| *next);
        bytes.extend([*start, end].map(u64::to_le_bytes).concat());
        bytes
            .extend([at as u32, component.len() as u32, 0, 0, 0, 0].map(u32::to_le_bytes).concat());
        at += component.len();
    }
    components.iter().for_each(|(_, component)| bytes.extend(component));
    bytes
}

/// The layouts are those of the Lustre Operations Manual: a default of 1 MiB on one server, `lfs
/// setstripe -S 4M -c 4`, and the progressive layout of its chapter 19.5, here behind a component with
/// the metadata.
#[test]
fn layouts_of_lustre() {
    assert_eq!(lustre(&component(0x0BD1_0BD0, 1, MIB as u32, 1)), layout(MIB, 1));
    assert_eq!(lustre(&component(0x0BD3_0BD0, 1, 4 << 20, 4)), layout(4 * MIB, 4));
    assert_eq!(lustre(&component(0x0BD1_0BD0, 0, MIB as u32, 0xFFFF)), layout(MIB, 1), "all");
    assert_eq!(lustre(&component(0x0BD1_0BD0, 0, MIB as u32, 0)), layout(MIB, 1), "default");
    let progressive = composite(&[
        (0, component(0x0BD1_0BD0, 0x100, MIB as u32, 0)),
        (MIB, component(0x0BD1_0BD0, 1, MIB as u32, 1)),
        (256 * MIB, component(0x0BD3_0BD0, 1, 4 << 20, 16)),
    ]);
    assert_eq!(lustre(&progressive), layout(4 * MIB, 16));
    let mirrored = composite(&[
        (0, component(0x0BD1_0BD0, 1, 2 << 20, 2)),
        (0, component(0x0BD1_0BD0, 0x4000_0000, MIB as u32, 1)),
    ]);
    assert_eq!(lustre(&mirrored), layout(2 * MIB, 2));
    let released = component(0x0BD1_0BD0, 0x8000_0001, MIB as u32, 1);
    for broken in [
        released,
        component(0x0BD4_0BD0, 1, MIB as u32, 1),
        component(0x0BD1_0BD0, 1, 0, 1),
        component(0x0BD1_0BD0, 1, 5000, 1),
        composite(&[]),
    ] {
        assert_eq!(lustre(&broken), None);
    }
    for len in 0..progressive.len() {
        let _ = lustre(&progressive[..len]);
    }
}

/// 512 KiB over four targets is the default of BeeGFS's documentation, "Striping".
#[test]
fn layouts_of_beegfs() {
    let info = |pattern: u32, chunk: u32, targets: u16| {
        let mut bytes = [0xEE; 12];
        bytes[..4].copy_from_slice(&pattern.to_ne_bytes());
        bytes[4..8].copy_from_slice(&chunk.to_ne_bytes());
        bytes[8..10].copy_from_slice(&targets.to_ne_bytes());
        beegfs(&bytes)
    };
    assert_eq!(info(1, 512 << 10, 4), layout(512 * KIB, 4));
    assert_eq!(info(3, 1 << 20, 2), layout(MIB, 2), "mirrored");
    assert_eq!(info(0, 512 << 10, 4), None);
    assert_eq!(info(1, 0, 4), None);
    // No other filesystem answers.
    let file = tempfile::tempfile().unwrap();
    assert_eq!(beegfs_of(file.as_fd()), None);
}

/// As GlusterFS 11 showed it for `option shard-block-size 8MB`, and its default.
#[test]
fn layouts_of_gluster() {
    let state = |size: &str| {
        format!(
            "[features/shard.v-shard]\nshard-block-size = {size}\ninode-count = 0\n\
             ilist_head = 0x562bd7ea7b80\nlru-max-limit = 16384\n"
        )
    };
    let of = |size: &str| gluster(state(size).as_bytes());
    assert_eq!(of("8.0MB"), layout(8 * MIB, 1));
    assert_eq!(of("64.0MB"), layout(64 * MIB, 1));
    assert_eq!(of("1.0GB"), layout(1 << 30, 1));
    for broken in ["", "MB", "8.0", "8.5MB", "8.0XB", "-8.0MB", "99999999999999999.0TB", "5.0KB"] {
        assert_eq!(of(broken), None, "{broken}");
    }
    assert_eq!(gluster(b"[cluster/dht.v-dht]\nshard-block-size = 8.0MB\n"), None);

    let root = tempfile::tempdir().unwrap();
    assert_eq!(gluster_of(root.path()), None);
    let graph = root.path().join(".meta/graphs/active");
    for (part, text) in [("v-dht", "[cluster/dht.v-dht]\n"), ("v-shard", &state("8.0MB"))] {
        fs::create_dir_all(graph.join(part)).unwrap();
        fs::write(graph.join(part).join("private"), text).unwrap();
    }
    assert_eq!(gluster_of(root.path()), layout(8 * MIB, 1));
}

/// Goal: an engine that does not answer leads to nothing. Method: a filesystem that is none.
#[test]
fn no_engine_no_layout() {
    let dir = tempfile::tempdir().unwrap();
    let root = crate::backing::open_root(dir.path()).unwrap();
    let file = tempfile::tempfile_in(dir.path()).unwrap();
    for engine in [Engine::Ceph, Engine::Lustre, Engine::BeeGfs, Engine::Gluster] {
        for file in [None, Some(file.as_fd())] {
            assert_eq!(engine.layout(root.as_fd(), file, dir.path()), None, "{engine:?}");
        }
    }
    let chunk = Engine::MooseFs.layout(root.as_fd(), None, dir.path());
    assert_eq!(chunk, layout(64 * MIB, 1));
}

fn is_sound(layout: Option<Layout>) -> bool {
    layout.is_none_or(|layout| {
        UNIT_BYTES.contains(&layout.unit_bytes)
            && layout.unit_bytes % PAGE_BYTES == 0
            && (1..=COUNT_MAX).contains(&layout.count)
    })
}

proptest! {
    /// Goal: whatever an engine says is refused or sound. Method: random bytes, alone and behind the
    /// beginnings that parsers look for, and recorded values with bytes changed.
    #[test]
    fn anything_is_refused_or_sound(
        bytes in proptest::collection::vec(any::<u8>(), 0..300),
        at in any::<proptest::sample::Index>(),
        value in any::<u8>(),
    ) {
        let mut changed = composite(&[
            (0, component(0x0BD1_0BD0, 1, 1 << 20, 1)),
            (1 << 20, component(0x0BD3_0BD0, 1, 4 << 20, 16)),
        ]);
        let at = at.index(changed.len());
        changed[at] = value;
        prop_assert!(is_sound(lustre(&changed)));
        let beginnings: [&[u8]; 5] = [
            b"",
            &0x0BD1_0BD0u32.to_le_bytes(),
            &0x0BD6_0BD0u32.to_le_bytes(),
            b"stripe_count=1 object_size=",
            b"[features/shard.x]\nshard-block-size = ",
        ];
        for beginning in beginnings {
            let bytes = [beginning, &bytes].concat();
            for parse in [ceph, lustre, gluster] {
                prop_assert!(is_sound(parse(&bytes)));
            }
        }
        if let Some(info) = bytes.first_chunk::<12>() {
            prop_assert!(is_sound(beegfs(info)));
        }
    }

    #[test]
    fn any_size_of_gluster(digits in "[0-9]{0,22}(\\.[0-9])?", unit in "(|[KMGT])B") {
        let text = format!("[features/shard.x]\nshard-block-size = {digits}{unit}");
        prop_assert!(is_sound(gluster(text.as_bytes())));
    }
}
