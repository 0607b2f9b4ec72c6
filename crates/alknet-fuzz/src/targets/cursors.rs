//! Pages: of the catalogue, and of the audit log on disk.

use super::{MIB, Target};
use crate::{note, source::Source};
use alknet_core::{
    AuditOutcome, AuditRow, Call, Caller, Dispatcher, ErrorCode, Operation, Registry,
    storage::{AuditFilter, AuditLog, MemoryAuditLog, Timestamp},
};
use alknet_store::Store;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

pub(super) const LISTING: Target = Target {
    name: "listing",
    about: "Pages of the catalogue from any cursor on are what follows it, each once.",
    run: listing,
    seeds: || {
        vec![
            vec![0, 0, 3],
            b"\x01\x09demo/op-07\x02".to_vec(),
            b"\x03\x05demo/\x01\x05node/\x05".to_vec(),
            b"\x09\xff\0".to_vec(),
        ]
    },
    tokens: &[b"demo/op-", b"services/", b"/", b"zzz", &[0], &[255]],
    bytes_max: 80,
    held_max: 8 * MIB,
};

pub(super) const AUDIT: Target = Target {
    name: "audit",
    about: "The store finds the audit rows that a loop over all of them finds.",
    run: audit,
    seeds: || {
        vec![
            vec![],
            vec![1, 1],
            vec![2, 3],
            b"\x82\x05demo/\x2a".to_vec(),
            vec![0xff, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12],
            vec![0x60, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 3],
        ]
    },
    tokens: &[
        b"demo/*",
        b"*",
        b"refused",
        b"ok",
        &[0xff; 8],
        &[0, 0, 0, 0, 0, 0, 0, 5],
        b"%",
        b"_",
        b"'",
    ],
    bytes_max: 100,
    held_max: 8 * MIB,
};

/// Operations of the catalogue beside those of discovery.
const OPERATIONS: usize = 23;

struct Catalogue {
    runtime: Runtime,
    door: Dispatcher,
}

thread_local! {
    static CATALOGUE: Catalogue = Catalogue::new();
}

impl Catalogue {
    fn new() -> Self {
        let registry = Registry::new();
        let operations = (0..OPERATIONS).map(|n| {
            let name = format!("demo/op-{n:02}");
            Operation::query(&name, "One of many.")
                .handler(|_cx, input: Value| async move { Ok(input) })
        });
        registry
            .register(operations.collect())
            .expect("valid operations");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        Self {
            runtime: runtime.expect("a runtime without I/O needs nothing"),
            door: Dispatcher::builder(registry).build(),
        }
    }

    /// The names on a page, and the cursor to the next one.
    fn page(&self, input: &Value) -> Result<(Vec<String>, Option<String>), bool> {
        let call = Call::new("services/list", Caller::host())
            .expect("a name")
            .input(input);
        let reply = self.runtime.block_on(self.door.call(call));
        let reply = reply.map_err(|error| error.is(ErrorCode::InvalidInput))?;
        let reply: Value = reply.parse().expect("a page");
        let operations = reply["operations"]
            .as_array()
            .expect("of the output's schema");
        let names = operations
            .iter()
            .map(|entry| entry["name"].as_str().unwrap_or_default().to_owned());
        Ok((
            names.collect(),
            reply["next_cursor"].as_str().map(ToOwned::to_owned),
        ))
    }
}

fn listing(data: &[u8]) {
    let mut source = Source::new(data);
    let flags = source.byte();
    let mut input = json!({});
    if flags & 1 != 0 {
        input["cursor"] = json!(source.text(70));
    }
    if flags & 2 != 0 {
        input["prefix"] = json!(source.text(70));
    }
    let limit = match flags & 4 {
        0 => u32::from(source.byte()),
        _ => source.u32(),
    };
    let whole = json!({ "limit": 1000 });
    let (cursor, prefix) = (input["cursor"].take(), input["prefix"].take());
    let (cursor, prefix) = (
        cursor.as_str().unwrap_or_default(),
        prefix.as_str().unwrap_or_default(),
    );
    CATALOGUE.with(|catalogue| {
        let (all, none) = catalogue.page(&whole).expect("the whole catalogue");
        assert!(none.is_none() && all.len() > OPERATIONS && all.is_sorted());
        let wanted: Vec<String> = all
            .into_iter()
            .filter(|name| name.as_str() > cursor && name.starts_with(prefix))
            .collect();
        let mut found = Vec::new();
        let mut at = cursor.to_owned();
        loop {
            let mut input = json!({ "limit": limit, "prefix": prefix });
            if !at.is_empty() {
                input["cursor"] = json!(at);
            }
            let (names, next) = catalogue.page(&input).expect("any cursor will do");
            assert!(names.len() <= limit.max(1) as usize);
            found.extend(names);
            match next {
                Some(next) => {
                    assert!(next > at, "the pages go on");
                    at = next;
                }
                None => break,
            }
        }
        assert_eq!(found, wanted, "after {cursor:?} in pages of {limit}");
        note((found.len(), limit.min(30)));
    });
}

/// The same rows on disk and in memory.
struct Logs {
    runtime: Runtime,
    memory: MemoryAuditLog,
    store: Store,
    _folder: TempDir,
}

thread_local! {
    static LOGS: Logs = Logs::new();
}

fn rows() -> Vec<AuditRow> {
    let callers = ["bob", "alice", "host"];
    let names = [
        "demo/echo",
        "demo/fail",
        "node/info",
        "demo",
        "de",
        "demo/\u{ff}",
    ];
    (0..40_u8)
        .map(|n| {
            let at = usize::from(n);
            let mut row = AuditRow::event(
                Timestamp(i64::from(n) * 1000),
                callers[at % 3],
                names[at % 6],
            );
            row.call_id = format!("call-{}", n % 10);
            row.originator = (n % 5 == 0).then(|| "home/ada".into());
            row.route = (n % 6 == 1).then(|| "hub/nas".into());
            row.resource = (n % 7 == 0).then(|| "bucket:www=read".into());
            row.key = (n % 8 == 2).then(|| "abcdefgh".into());
            row.transport = (n % 9 == 3).then(|| "owner".into());
            row.duration_us = u64::from(n) * 500_000;
            row.parent_id = (n % 4 == 0).then(|| format!("call-{}", n % 5));
            if n % 3 == 0 {
                row.outcome = AuditOutcome::code("NOT_FOUND".into());
            }
            row
        })
        .collect()
}

impl Logs {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let store = Store::open(&folder.path().join("alknet.db")).expect("a new store");
        let memory = MemoryAuditLog::default();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build();
        let runtime = runtime.expect("a runtime without I/O needs nothing");
        runtime.block_on(async {
            store.append(rows()).await.expect("a store that works");
            memory.append(rows()).await.expect("memory");
        });
        Self {
            runtime,
            memory,
            store,
            _folder: folder,
        }
    }
}

fn audit(data: &[u8]) {
    let mut source = Source::new(data);
    let flags = source.byte();
    let mut text = |bit: u8, common: &[&str]| {
        (flags & bit != 0).then(|| match source.below(common.len() + 1) {
            at if at < common.len() => common[at].to_owned(),
            _ => source.text(12),
        })
    };
    let times = [
        "1970-01-01T00:00:05Z",
        "1970-01-01T00:00:20.5+00:00",
        "9999-12-31T00:00:00Z",
    ];
    let filter = AuditFilter {
        caller: text(1, &["bob", "alice"]),
        operation: text(2, &["demo/*", "demo/echo", "*", "demo*", "d"]),
        outcome: text(4, &["ok", "refused", "NOT_FOUND"]),
        call_id: text(8, &["call-0", "call-3"]),
        since: text(16, &times),
        until: text(16, &times),
        after: (flags & 32 != 0).then(|| cursor(&mut source)),
        before: (flags & 64 != 0).then(|| cursor(&mut source)),
        limit: (flags & 128 != 0).then(|| u32::from(source.u16()) >> 6),
        ..ways(&mut source)
    };
    LOGS.with(|logs| {
        logs.runtime.block_on(async {
            let found = logs.store.list(&filter).await.expect("a filter that works");
            let wanted = logs.memory.list(&filter).await.expect("memory");
            assert_eq!(found, wanted, "{filter:?}");
            note((found.len(), flags));
        });
    });
}

/// Where calls came from and went.
fn ways(source: &mut Source<'_>) -> AuditFilter {
    let flags = source.byte();
    let mut text = |bit: u8, common: &[&str]| {
        (flags & bit != 0).then(|| match source.below(common.len() + 1) {
            at if at < common.len() => common[at].to_owned(),
            _ => source.text(12),
        })
    };
    AuditFilter {
        originator: text(1, &["home/*", "*"]),
        surface: text(2, &["local", "call"]),
        route: text(4, &["nas", "hub/nas"]),
        resource: text(8, &["bucket:*", "*"]),
        key: text(16, &["abcdefgh"]),
        transport: text(32, &["owner"]),
        took_ms_min: (flags & 64 != 0).then(|| cursor(source)),
        oldest_first: flags & 128 != 0,
        ..AuditFilter::default()
    }
}

/// Small most often, and at the ends of what fits.
fn cursor(source: &mut Source<'_>) -> u64 {
    match source.below(4) {
        0 => source.u64(),
        1 => u64::MAX - u64::from(source.byte()),
        2 => (1 << 63) - 2 + u64::from(source.byte() & 3),
        _ => u64::from(source.byte()),
    }
}
