//! A node serves whoever sends what it likes, in whatever order.

use super::{
    HOUR, World, greeting,
    peer::{End, Side, call, step},
};
use crate::{
    note,
    source::Source,
    targets::{MIB, Target},
};
use alknet_call::{Decoder, Frame, Session, SessionConfig};
use alknet_core::{Caller, transport::Connection};
use alknet_testkit::transport::{MemoryConnection, PairOptions, connection_pair};
use std::sync::Arc;
use tokio::{io::AsyncWriteExt, time::timeout};

pub(in crate::targets) const CALLEE: Target = Target {
    name: "callee",
    about: "A session that serves calls never hangs, leaves nothing behind, and ends each stream with one outcome or a reset.",
    run: callee,
    seeds,
    tokens: &[
        &[0, 0, 0],
        &[7, 0, 0],
        &[4, 0, 1],
        &[13],
        &[9],
        &[12, 255, 255],
        &[0, 1],
        &[3, 3, 1, 0],
    ],
    bytes_max: 256,
    held_max: 64 * MIB,
};

/// Streams of one connection.
const STREAMS_MAX: usize = 4;
/// Bytes that are read of one stream.
const HEARD_MAX: usize = 256 * 1024;

thread_local! {
    static WORLD: World = World::new();
}

fn callee(data: &[u8]) {
    WORLD.with(|world| {
        world.runtime.block_on(async {
            serve(world, &mut Source::new(data)).await;
            world.quiet().await;
        });
    });
}

async fn serve(world: &World, source: &mut Source<'_>) {
    let flags = source.byte();
    let caller = match flags & 7 {
        7 => Caller::anonymous(),
        _ => world.alice.clone(),
    };
    let options = PairOptions {
        // Small windows make writers wait.
        stream_window: if flags & 8 == 0 { 1_250_000 } else { 700 },
        ..PairOptions::default()
    };
    let (ours, theirs) = connection_pair(options);
    let door = Some(world.door.clone());
    let (served, ()) = tokio::join!(
        Session::start(theirs, door, caller, SessionConfig::default()),
        say_hello(&ours),
    );
    let served = served.expect("a sound hello");
    let mut sides: Vec<Side> = Vec::new();
    while !source.is_empty() {
        match source.below(8) {
            0 if sides.len() < STREAMS_MAX => {
                let Ok(stream) = ours.open_bi().await else {
                    break;
                };
                let mut side = Side::new(stream);
                side.write(&call(source).to_bytes());
                sides.push(side);
            }
            1 if sides.len() < STREAMS_MAX => {
                let Ok(stream) = ours.open_bi().await else {
                    break;
                };
                sides.push(Side::new(stream));
            }
            2 if source.one_in(16) => {
                ours.cut();
                break;
            }
            _ if !sides.is_empty() => {
                let index = source.below(sides.len());
                step(source, &mut sides[index]).await;
            }
            _ => tokio::task::yield_now().await,
        }
    }
    if flags & 16 == 0 {
        for side in sides.iter_mut().filter(|side| side.is_seen) {
            if !side.is_finished {
                side.finish();
            }
            let heard = timeout(HOUR, side.read_to_end(HEARD_MAX)).await;
            assert!(
                heard.is_ok() || side.may_wait(),
                "a stream that is finished does not end"
            );
        }
    }
    sides.iter().for_each(judge);
    note((sides.len(), served.is_closed()));
    ours.close(0, "done");
    drop(sides);
    served.closed().await;
}

/// What was heard on a stream is whole frames with at most one outcome, and
/// exactly one if the stream came to its end.
fn judge(side: &Side) {
    let mut decoder = Decoder::new(16 * MIB, 256 * 1024);
    decoder.feed(&side.heard);
    let (mut outcomes, mut last, mut accepted, mut types) = (0, None, 0, 0_u32);
    while let Some(frame) = decoder.frame().expect("the node speaks the protocol") {
        assert_eq!(outcomes, 0, "{frame:?} after the outcome");
        types |= 1 << (frame.frame_type() as u32 & 31);
        match &frame {
            Frame::Done(_) | Frame::Error(_) => outcomes += 1,
            Frame::Accepted(_) => accepted += 1,
            Frame::Item(_) | Frame::Chunk { .. } | Frame::End { .. } | Frame::Control(_) => {
                assert_eq!(accepted, 1, "{frame:?} before it was accepted");
            }
            Frame::Progress(_) | Frame::Ask { .. } | Frame::Credit(_) => {}
            Frame::Hello(..) | Frame::Invoke(..) | Frame::Answer { .. } => {
                panic!("a callee does not send {frame:?}");
            }
        }
        last = Some(match frame {
            Frame::Error(error) => error.code.into_owned(),
            frame => frame.frame_type().as_str().to_owned(),
        });
    }
    assert!(accepted <= 1, "accepted {accepted} times");
    if side.end == Some(End::Finished) {
        assert_eq!(outcomes, 1, "the stream ended without an outcome");
        assert!(
            decoder.is_between_frames(),
            "the stream ended within a frame"
        );
    }
    note((types, last, side.end));
}

async fn say_hello(connection: &Arc<MemoryConnection>) {
    let mut send = connection.open_uni().await.expect("an open connection");
    let bytes = Frame::Hello(greeting(), None).to_bytes();
    send.write_all(&bytes).await.expect("an open connection");
    send.finish();
    // What the node says of itself.
    drop(connection.accept_uni().await.expect("an open connection"));
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    // One call of each operation: opened, then time for it.
    for name in 0..12 {
        for flags in [0, 3] {
            seeds.push(vec![0, 0, name, flags, 1, 7, 0, 13, 3, 7, 0, 12, 255, 255]);
        }
    }
    // A pipe: opened, bytes both ways, ended.
    seeds.push(vec![
        0, 0, 7, 0, 0, 7, 0, 0, 0, 0, 0, 40, 7, 0, 15, 7, 0, 12, 1, 0, 7, 0, 0, 1, 0, 7, 0, 9,
    ]);
    // Questions answered, out of order and twice.
    seeds.push(vec![
        0, 0, 3, 3, 0, 7, 0, 13, 1, 7, 0, 0, 3, 1, 1, 0, 7, 0, 0, 3, 0, 1, 0, 7, 0, 0, 3, 0, 1, 0,
    ]);
    // Two streams, one of them reset, small windows.
    seeds.push(vec![
        8, 0, 5, 0, 7, 0, 0, 0, 1, 0, 7, 0, 13, 1, 7, 1, 13, 2, 7, 0, 10, 1, 7, 1, 12, 9, 9,
    ]);
    // Credit beyond all bounds.
    seeds.push(vec![
        0, 0, 4, 0, 7, 7, 0, 0, 6, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1,
    ]);
    seeds
}
