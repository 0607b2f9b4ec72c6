//! A disk that is full, and has room again.

use super::world::{World, at, fails, names};
use alknet_core::files::{
    Attributes, CopyOptions, Create, FileErrorCode::NoSpace, FileService, OpenOptions,
    ReplaceOptions,
};
use alknet_fs::{BucketConfig, ByteSize};
use std::{
    env, fs,
    os::unix::process::CommandExt,
    path::Path,
    process::{Command, Stdio},
};

const CHILD: &str = "ALKNET_FS_TEST_DISK_CHILD";
const NAME: &str = "a_full_disk_leaves_nothing_partial_and_recovers";
/// Of the disk.
const BYTES: u64 = 8 << 20;

/// In a mount namespace of its own, whose end takes the file system with it.
#[test]
fn a_full_disk_leaves_nothing_partial_and_recovers() {
    if let Ok(dir) = env::var(CHILD) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(on_a_small_disk(Path::new(&dir)));
    }
    let dir = tempfile::tempdir().unwrap();
    let root = rustix::process::geteuid().is_root();
    // Who is not root is root in a namespace of users.
    let own = if root { "--mount" } else { "-rm" };
    let test = format!("{}::{NAME}", module_path!().split_once("::").unwrap().1);
    let mut inside = Command::new("unshare");
    inside
        .args([own, "--propagation", "private", "--", "sh", "-c"])
        .arg("mount -t tmpfs -o size=8m,mode=700 tmpfs \"$1\" || exit 77; shift; exec \"$@\"")
        .arg("sh")
        .arg(dir.path())
        .arg(env::current_exe().unwrap())
        .args([&test, "--exact", "--nocapture"])
        .env(CHILD, dir.path())
        .stdin(Stdio::null())
        // Ended with this process, whatever ends it.
        .process_group(0);
    let said = match inside.output() {
        Ok(said) => said,
        Err(error) => return alknet_lab::skip(NAME, &format!("unshare cannot be run: {error}")),
    };
    let text = String::from_utf8_lossy(&said.stderr);
    if said.status.code() == Some(77) || text.contains("unshare failed") {
        return alknet_lab::skip(NAME, "no file system of its own can be mounted here");
    }
    let out = String::from_utf8_lossy(&said.stdout);
    assert!(said.status.success(), "{out}{text}");
    assert!(out.contains("1 passed"), "{out}{text}");
}

async fn on_a_small_disk(disk: &Path) {
    let dir = tempfile::tempdir_in(disk).unwrap();
    fs::create_dir(dir.path().join("www")).unwrap();
    let mut www = BucketConfig::new("www", dir.path().join("www"));
    // What the disk itself says is to be seen.
    www.keep_free = ByteSize::new(0);
    let world = World::over(dir, &[www]);
    world.put("www/old", "old");
    world.put("www/large", vec![1; 5 << 20]);
    for _ in 0..3 {
        everything_is_refused(&world).await;
        // There is room again for what is smaller.
        let put = world.put_small("www/old", "new").await.unwrap();
        assert_eq!(put.bytes, 3);
        world.put("www/old", "old");
    }
    room_is_left(&world).await;
    fs::remove_file(world.host("www/large")).unwrap();
    let mut new = world
        .replace("www/large", ReplaceOptions::default())
        .await
        .unwrap();
    for _ in 0..6 {
        new.write(&world.all, vec![2; 1 << 20].into())
            .await
            .unwrap();
    }
    new.commit(&world.all).await.unwrap();
    assert_eq!(names(&world.host("www")), ["large", "old"]);
}

async fn everything_is_refused(world: &World) {
    let all = &world.all;
    let mut new = world
        .replace("www/old", ReplaceOptions::default())
        .await
        .unwrap();
    let mut written = 0;
    let refused = loop {
        match new.write(all, vec![3; 1 << 20].into()).await {
            Ok(()) => written += 1,
            error => break error,
        }
        assert!(written < BYTES >> 20);
    };
    fails(refused, NoSpace);
    // Whole pieces only: one that did not fit is forgotten.
    assert_eq!(new.bytes(), written << 20);
    drop(new);
    let announced = ReplaceOptions {
        bytes: Some(BYTES),
        ..ReplaceOptions::default()
    };
    fails(world.replace("www/old", announced).await, NoSpace);
    let many = (0..8).map(|file| super::world::small(&format!("www/s{file}"), vec![4; 1 << 20]));
    let put = world.buckets.put_small(all, many.collect()).await;
    for (file, put) in put.into_iter().enumerate() {
        let path = world.host(&format!("www/s{file}"));
        match put {
            Ok(_) => {
                assert_eq!(fs::read(&path).unwrap(), vec![4; 1 << 20]);
                fs::remove_file(path).unwrap();
            }
            error => {
                fails(error, NoSpace);
                assert!(!path.exists());
            }
        }
    }
    let (from, to) = (at("www/large"), at("www/copy"));
    let copied = world.buckets.copy(all, &from, &to, CopyOptions::default());
    fails(copied.await, NoSpace);
    assert_eq!(world.get("www/old"), "old");
    assert_eq!(names(&world.host("www")), ["large", "old"]);
    in_place(world).await;
}

/// Writes in place that fail tell how far they came.
async fn in_place(world: &World) {
    let file = world
        .open("www/grows", OpenOptions::writing(Create::New))
        .await;
    let mut end = 0;
    let refused = loop {
        match file
            .write_at(&world.all, end, vec![5; 1 << 20].into())
            .await
        {
            Ok(()) => end += 1 << 20,
            error => break error,
        }
        assert!(end < BYTES);
    };
    fails(refused, NoSpace);
    // A hole takes no room, filling it does.
    let longer = Attributes {
        bytes: Some(BYTES * 2),
        ..Attributes::default()
    };
    file.set_attributes(&world.all, longer).await.unwrap();
    fails(
        file.write_at(&world.all, BYTES, vec![5; 4 << 20].into())
            .await,
        NoSpace,
    );
    fs::remove_file(world.host("www/grows")).unwrap();
}

/// What is to be left free is left free, to the byte that the disk tells.
async fn room_is_left(world: &World) {
    let mut www = BucketConfig::new("www", world.host("www"));
    www.keep_free = ByteSize::new(2 << 20);
    world
        .buckets
        .configure(&Default::default(), &[www])
        .unwrap();
    let free = world
        .buckets
        .space(&world.all, &at("www"))
        .await
        .unwrap()
        .bytes_free;
    assert!(free > 1 << 16 && free < 1 << 20, "{free}");
    let announced = |bytes| ReplaceOptions {
        bytes: Some(bytes),
        ..ReplaceOptions::default()
    };
    fails(world.replace("www/f", announced(free + 1)).await, NoSpace);
    let fits = world.replace("www/f", announced(free)).await.unwrap();
    fits.discard().await;
    fails(
        world
            .put_small("www/f", vec![0; usize::try_from(free).unwrap() + 1])
            .await,
        NoSpace,
    );
    assert_eq!(names(&world.host("www")), ["large", "old"]);
    let mut www = BucketConfig::new("www", world.host("www"));
    www.keep_free = ByteSize::new(0);
    world
        .buckets
        .configure(&Default::default(), &[www])
        .unwrap();
}
