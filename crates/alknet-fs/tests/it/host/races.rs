//! Many at one name.

use super::world::{World, at, names, small};
use alknet_core::files::{
    Create, FileError, FileErrorCode, FileService, OpenOptions, ReplaceOptions, SmallFile,
};
use futures::future::join_all;
use std::{future::Future, sync::Arc};

const TASKS: usize = 32;

/// Runs `act` of all tasks at once; their outcomes.
async fn all_at_once<T, F>(
    world: &Arc<World>,
    act: impl Fn(Arc<World>, usize) -> F,
) -> Vec<Result<T, FileError>>
where
    T: Send + 'static,
    F: Future<Output = Result<T, FileError>> + Send + 'static,
{
    let start = Arc::new(tokio::sync::Barrier::new(TASKS));
    let tasks = (0..TASKS).map(|task| {
        let (act, start) = (act(world.clone(), task), start.clone());
        tokio::spawn(async move {
            start.wait().await;
            act.await
        })
    });
    join_all(tasks)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect()
}

#[track_caller]
fn one_wins<T>(outcomes: Vec<Result<T, FileError>>, others: &[FileErrorCode]) -> usize {
    let won: Vec<_> = (0..outcomes.len())
        .filter(|at| outcomes[*at].is_ok())
        .collect();
    assert_eq!(won.len(), 1, "{} won", won.len());
    for error in outcomes.into_iter().filter_map(Result::err) {
        assert!(
            error.code().is_some_and(|code| others.contains(&code)),
            "{error}"
        );
    }
    won[0]
}

async fn replaced(
    world: Arc<World>,
    task: usize,
    options: ReplaceOptions,
) -> Result<(), FileError> {
    let mut new = world.replace("www/f", options).await?;
    new.write(&world.all, format!("task {task}").into()).await?;
    tokio::task::yield_now().await;
    new.commit(&world.all).await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_all_who_replace_one_version_one_wins() {
    for _ in 0..10 {
        let world = Arc::new(World::new());
        let version = world.put_small("www/f", "old").await.unwrap().version;
        let outcomes = all_at_once(&world, |world, task| {
            let if_version = Some(version.clone());
            replaced(
                world,
                task,
                ReplaceOptions {
                    if_version,
                    ..Default::default()
                },
            )
        });
        let won = one_wins(outcomes.await, &[FileErrorCode::FileChanged]);
        assert_eq!(world.get("www/f"), format!("task {won}"));
        assert_eq!(names(&world.host("www")), ["f"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_all_who_make_one_file_one_wins() {
    for round in 0..10 {
        let world = Arc::new(World::new());
        let outcomes = all_at_once(&world, |world, task| async move {
            // By every way in which a file is made.
            match (task + round) % 3 {
                0 => {
                    let create = Create::New;
                    replaced(
                        world,
                        task,
                        ReplaceOptions {
                            create,
                            ..Default::default()
                        },
                    )
                    .await
                }
                1 => {
                    let bytes = format!("task {task}");
                    let new = SmallFile {
                        create: Create::New,
                        ..small("www/f", bytes)
                    };
                    world
                        .buckets
                        .put_small(&world.all, vec![new])
                        .await
                        .remove(0)
                        .map(drop)
                }
                _ => {
                    let options = OpenOptions::writing(Create::New);
                    let file = world
                        .buckets
                        .open(&world.all, &at("www/f"), options)
                        .await?;
                    file.write_at(&world.all, 0, format!("task {task}").into())
                        .await
                }
            }
        });
        let won = one_wins(outcomes.await, &[FileErrorCode::FileExists]);
        assert_eq!(world.get("www/f"), format!("task {won}"));
        assert_eq!(names(&world.host("www")), ["f"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn who_goes_on_elsewhere_takes_over() {
    let world = Arc::new(World::new());
    let options = ReplaceOptions {
        resume: Some("upload 1".into()),
        ..ReplaceOptions::default()
    };
    let mut first = world.replace("www/f", options.clone()).await.unwrap();
    first.write(&world.all, "begun, ".into()).await.unwrap();
    let mut second = world.replace("www/f", options.clone()).await.unwrap();
    assert_eq!(second.bytes(), 7);
    super::world::fails(
        first.write(&world.all, "lost".into()).await,
        FileErrorCode::FileBusy,
    );
    drop(first);
    second.write(&world.all, "done".into()).await.unwrap();
    assert_eq!(
        second.digest(&world.all).await.unwrap(),
        blake3::hash(b"begun, done").to_string()
    );
    second.commit(&world.all).await.unwrap();
    assert_eq!(world.get("www/f"), "begun, done");
    // Another caller begins anew.
    let mut third = world.replace("www/f", options.clone()).await.unwrap();
    assert_eq!(third.bytes(), 0);
    third.write(&world.all, "x".into()).await.unwrap();
    drop(third);
    world.grant("bob", &["fs:write", "bucket:www/**=write"]);
    let bob = world.permit("bob", "fs/write");
    let fourth = world
        .buckets
        .replace(&bob, &at("www/f"), options)
        .await
        .unwrap();
    assert_eq!(fourth.bytes(), 0);
}
