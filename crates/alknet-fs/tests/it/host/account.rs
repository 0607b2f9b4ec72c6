//! What the account of the node may not do.

use super::world::{World, at, fails, names};
use alknet_core::files::{
    Attributes, CopyOptions, Create, DigestRequest, FileErrorCode::HostRefuses, FileService,
    OpenOptions, Removal, RenameOptions, ReplaceOptions,
};
use std::{
    env, fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
};

const CHILD: &str = "ALKNET_FS_TEST_ACCOUNT_CHILD";
const NAME: &str = "what_the_account_may_not_is_told_and_changes_nothing";
/// Nobody, as Debian has it.
const NOBODY: &str = "65534";

/// In a process of another account, since nothing is refused to root.
#[test]
fn what_the_account_may_not_is_told_and_changes_nothing() {
    if let Ok(dir) = env::var(CHILD) {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        return runtime.block_on(as_another(Path::new(&dir)));
    }
    let dir = tempfile::tempdir().unwrap();
    lay_out(dir.path());
    let test = format!("{}::{NAME}", module_path!().split_once("::").unwrap().1);
    // The test itself may lie where nobody else gets.
    let program = dir.path().join("test");
    fs::copy(env::current_exe().unwrap(), &program).unwrap();
    let mut inside = match rustix::process::geteuid().is_root() {
        true => {
            let mut setpriv = Command::new("setpriv");
            setpriv.args(["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
            setpriv
                .args(["--inh-caps=-all", "--bounding-set=-all", "--"])
                .arg(&program);
            setpriv
        }
        false => Command::new(&program),
    };
    inside.args([&test, "--exact", "--nocapture"]);
    inside
        .env(CHILD, dir.path())
        .env("TMPDIR", dir.path().join("tmp"))
        .current_dir("/");
    let said = match inside.stdin(Stdio::null()).output() {
        Ok(said) => said,
        Err(error) => return alknet_lab::skip(NAME, &format!("setpriv cannot be run: {error}")),
    };
    let (out, err) = (
        String::from_utf8_lossy(&said.stdout),
        String::from_utf8_lossy(&said.stderr),
    );
    assert!(
        said.status.success() && out.contains("1 passed"),
        "{out}{err}"
    );
    open_up(dir.path());
}

fn mode(path: impl AsRef<Path>, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

/// `open` is for all, `closed` and `locked` for nobody, `fixed` for reading.
fn lay_out(dir: &Path) {
    mode(dir, 0o755);
    let www = dir.join("www");
    fs::create_dir_all(dir.join("tmp")).unwrap();
    mode(dir.join("tmp"), 0o777);
    for name in ["open", "closed", "fixed"] {
        fs::create_dir_all(www.join(name)).unwrap();
        for file in ["f", "locked"] {
            fs::write(www.join(name).join(file), "kept").unwrap();
        }
        mode(www.join(name).join("locked"), 0o000);
        mode(www.join(name).join("f"), 0o666);
    }
    mode(www.join("open"), 0o777);
    mode(www.join("fixed"), 0o555);
    mode(www.join("closed"), 0o000);
}

/// So that the directory can be removed, by who is not root too.
fn open_up(dir: &Path) {
    mode(dir.join("www/closed"), 0o700);
    mode(dir.join("www/fixed"), 0o700);
    for name in ["open", "closed", "fixed"] {
        let (f, locked) = (
            dir.join("www").join(name).join("f"),
            dir.join("www").join(name).join("locked"),
        );
        assert_eq!(
            fs::read_to_string(f).unwrap(),
            if name == "open" { "new" } else { "kept" }
        );
        mode(&locked, 0o600);
        assert_eq!(fs::read_to_string(locked).unwrap(), "kept");
    }
}

async fn as_another(dir: &Path) {
    let own = tempfile::tempdir().unwrap();
    let world = World::over(own, &[alknet_fs::BucketConfig::new("www", dir.join("www"))]);
    let (www, all) = (&world.buckets, &world.all);
    let reading = OpenOptions::reading();
    let is_root_owner = rustix::process::geteuid().as_raw().to_string() == NOBODY;
    // What may not be read.
    let told = fails(
        www.open(all, &at("www/open/locked"), reading).await,
        HostRefuses,
    );
    assert_eq!(told, "`www/open/locked`: the account of the node may not");
    fails(
        www.get_small(all, &[at("www/open/locked")]).await.remove(0),
        HostRefuses,
    );
    let request = DigestRequest {
        algorithms: vec![alknet_core::files::Algorithm::Blake3],
        ..DigestRequest::default()
    };
    fails(
        www.digest(all, &at("www/open/locked"), request).await,
        HostRefuses,
    );
    let (from, to) = (at("www/open/locked"), at("www/open/copy"));
    fails(
        www.copy(all, &from, &to, CopyOptions::default()).await,
        HostRefuses,
    );
    // Where nobody may enter.
    fails(www.stat(all, &at("www/closed/f"), true).await, HostRefuses);
    fails(www.list(all, &at("www/closed"), None).await, HostRefuses);
    fails(
        www.remove(all, &at("www/closed/f"), Removal::File).await,
        HostRefuses,
    );
    // Where nothing may be changed.
    fails(world.put_small("www/fixed/f", "new").await, HostRefuses);
    fails(world.put_small("www/fixed/new", "new").await, HostRefuses);
    fails(
        world
            .replace("www/fixed/f", ReplaceOptions::default())
            .await,
        HostRefuses,
    );
    let writing = OpenOptions::writing(Create::IfMissing);
    fails(
        www.open(all, &at("www/fixed/new"), writing).await,
        HostRefuses,
    );
    fails(
        www.make_directory(all, &at("www/fixed/new"), None).await,
        HostRefuses,
    );
    fails(
        www.symlink(all, &at("www/fixed/new"), b"f").await,
        HostRefuses,
    );
    fails(
        www.remove(all, &at("www/fixed/f"), Removal::File).await,
        HostRefuses,
    );
    let (from, to) = (at("www/fixed/f"), at("www/open/moved"));
    fails(
        www.rename(all, &from, &to, RenameOptions::default()).await,
        HostRefuses,
    );
    fails(
        www.copy(
            all,
            &at("www/open/f"),
            &at("www/fixed/new"),
            CopyOptions::default(),
        )
        .await,
        HostRefuses,
    );
    if is_root_owner {
        // What another account owns.
        let mode = Attributes {
            mode: Some(0o777),
            ..Attributes::default()
        };
        fails(
            www.set_attributes(all, &at("www/open/f"), true, mode).await,
            HostRefuses,
        );
        let owner = Attributes {
            uid: Some(0),
            ..Attributes::default()
        };
        world.put_small("www/open/own", "own").await.unwrap();
        fails(
            www.set_attributes(all, &at("www/open/own"), true, owner)
                .await,
            HostRefuses,
        );
        www.remove(all, &at("www/open/own"), Removal::File)
            .await
            .unwrap();
    }
    // A tree of which one part is kept by the host.
    fails(
        www.remove(all, &at("www/closed"), Removal::Tree).await,
        HostRefuses,
    );
    assert_eq!(names(&dir.join("www/open")), ["f", "locked"]);
    assert_eq!(names(&dir.join("www/fixed")), ["f", "locked"]);
    world.put_small("www/open/f", "new").await.unwrap();
}
