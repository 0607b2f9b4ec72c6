//! The first words on a connection, from whoever opened or accepted it.

use super::{HOUR, World, greeting};
use crate::{
    note,
    source::Source,
    targets::{MIB, Target},
};
use alknet_call::{
    Bearer, Frame, Hello, PeerLimits, Session, SessionConfig, SessionError, connection_code,
};
use alknet_core::transport::Connection;
use alknet_testkit::transport::{PairOptions, connection_pair};
use futures::FutureExt;
use std::time::Duration;
use tokio::{io::AsyncWriteExt, time::timeout};

pub(in crate::targets) const HELLO: Target = Target {
    name: "hello",
    about: "Whatever is said first, a session begins or the connection is closed with a code.",
    run: hello,
    seeds,
    tokens: &[&[1, 0], &[0, 1, 0, 0], &[0xff, 0xff, 0xff, 0xff], b"alknet"],
    bytes_max: 1024,
    held_max: 16 * MIB,
};

thread_local! {
    static WORLD: World = World::new();
}

fn hello(data: &[u8]) {
    WORLD.with(|world| {
        world.runtime.block_on(async {
            meet(world, &mut Source::new(data)).await;
            world.quiet().await;
        });
    });
}

async fn meet(world: &World, source: &mut Source<'_>) {
    let flags = source.byte();
    let (first, second) = connection_pair(PairOptions::default());
    let (ours, theirs) = if flags & 1 == 0 {
        (first, second)
    } else {
        (second, first)
    };
    let bytes = match flags & 2 {
        0 => source.rest().to_vec(),
        _ => Frame::Hello(made(source), credential(flags))
            .to_bytes()
            .to_vec(),
    };
    let door = (flags & 4 == 0).then(|| world.door.clone());
    let said = async {
        let mut send = ours.open_uni().await.expect("an open connection");
        for part in bytes.chunks(1 + usize::from(flags >> 5) * 7) {
            // The other side may have heard enough.
            let _ = send.write_all(part).now_or_never();
            tokio::task::yield_now().await;
        }
        if flags & 8 == 0 {
            send.finish();
        } else {
            // Nothing more comes, and no end either.
            tokio::time::sleep(Duration::from_secs(60)).await;
        }
    };
    let start = Session::start(
        theirs.clone(),
        door,
        world.alice.clone(),
        SessionConfig::default(),
    );
    let (session, ()) = tokio::join!(timeout(HOUR, start), said);
    match session.expect("a session begins or does not") {
        Ok(session) => {
            let limits = session.remote().limits;
            assert!(
                limits.frame_bytes_max >= 64 * 1024 && limits.frame_bytes_max <= 16 * 1024 * 1024
            );
            assert!(limits.chunk_bytes_max >= 1024 && limits.chunk_bytes_max <= 256 * 1024);
            assert!(session.remote().versions.contains(&1));
            let remote = session.remote();
            note((
                remote.versions.len(),
                remote.features.len(),
                remote.software.len() / 8,
            ));
        }
        Err(error) => {
            let closed = ours.closed().await;
            assert_eq!(closed.code, Some(code(&error)), "{error}");
            note((closed.code, std::mem::discriminant(&error)));
        }
    }
    ours.close(0, "done");
}

/// The code that says why, as the protocol's page lists it.
fn code(error: &SessionError) -> u32 {
    match error {
        SessionError::NoHello => connection_code::NO_HELLO,
        SessionError::NoCommonVersion { .. } => connection_code::NO_COMMON_VERSION,
        SessionError::Unauthenticated => connection_code::UNAUTHENTICATED,
        _ => connection_code::BAD_HELLO,
    }
}

fn credential(flags: u8) -> Option<Bearer> {
    (flags & 16 != 0).then(|| Bearer::new("nobody's"))
}

fn made(source: &mut Source<'_>) -> Hello {
    let size = |source: &mut Source<'_>, usual: u32| match source.below(4) {
        0 | 1 => usual,
        2 => source.u32(),
        _ => u32::from(source.u16()),
    };
    let limits = PeerLimits {
        frame_bytes_max: size(source, 64 * 1024),
        chunk_bytes_max: size(source, 1024),
        item_window_bytes: size(source, 16 * 1024),
        channel_window_bytes: size(source, 16 * 1024),
    };
    let mut versions: Vec<u16> = (0..source.below(4)).map(|_| source.u16()).collect();
    if !source.one_in(8) {
        versions.push(1);
    }
    Hello {
        versions,
        software: source.text(80),
        node_name: source.text(80),
        limits,
        features: vec![source.text(40)],
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let greeting = Frame::Hello(greeting(), None).to_bytes();
    let keyed = Frame::Hello(super::greeting(), Some(Bearer::new("k"))).to_bytes();
    let mut seeds = Vec::new();
    for flags in [0, 1, 4, 8, 9, 0xe0] {
        seeds.push([&[flags], &greeting[..]].concat());
        seeds.push([&[flags], &keyed[..]].concat());
    }
    seeds.extend([
        vec![2, 0, 0, 0, 0, 1, 0, 1],
        vec![3],
        vec![18],
        vec![0, 0x10, 0],
    ]);
    seeds
}
