PRAGMA application_id = 1634495342;
PRAGMA user_version = 3;

CREATE TABLE address_records (
  network BLOB NOT NULL CHECK (length(network) = 16),
  node BLOB NOT NULL CHECK (length(node) = 32),
  sequence INTEGER NOT NULL,
  record BLOB NOT NULL,
  PRIMARY KEY (network, node)
) STRICT, WITHOUT ROWID;

CREATE TABLE api_keys (
  id TEXT NOT NULL PRIMARY KEY,
  secret_hash BLOB NOT NULL CHECK (length(secret_hash) = 32),
  peer TEXT NOT NULL REFERENCES peers (id) ON DELETE CASCADE,
  name TEXT NOT NULL,
  grants TEXT, -- JSON: list of targets
  created_at INTEGER NOT NULL,
  expires_at INTEGER,
  last_used_at INTEGER,
  UNIQUE (peer, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
  number INTEGER PRIMARY KEY AUTOINCREMENT,
  at INTEGER NOT NULL,
  call_id TEXT NOT NULL,
  parent_id TEXT,
  caller TEXT NOT NULL,
  originator TEXT,
  surface TEXT NOT NULL,
  operation TEXT NOT NULL,
  route TEXT,
  resource TEXT,
  outcome TEXT NOT NULL,
  detail TEXT,
  duration_us INTEGER NOT NULL,
  bytes_in INTEGER NOT NULL,
  bytes_out INTEGER NOT NULL
, key TEXT, transport TEXT) STRICT;

CREATE TABLE bans (
  target TEXT NOT NULL PRIMARY KEY,
  reason TEXT NOT NULL,
  banned_by TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  until INTEGER
) STRICT, WITHOUT ROWID;

CREATE TABLE catalogues (
  import TEXT NOT NULL PRIMARY KEY,
  revision TEXT NOT NULL,
  text BLOB NOT NULL
) STRICT;

CREATE TABLE credentials (
  provider TEXT NOT NULL,
  account TEXT NOT NULL,
  key_version INTEGER NOT NULL,
  sealed BLOB NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  PRIMARY KEY (provider, account)
) STRICT, WITHOUT ROWID;

CREATE TABLE grants (
  peer TEXT NOT NULL REFERENCES peers (id) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  target TEXT NOT NULL,
  PRIMARY KEY (peer, position),
  UNIQUE (peer, target)
) STRICT, WITHOUT ROWID;

CREATE TABLE group_grants (
  group_name TEXT NOT NULL REFERENCES groups (name) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  target TEXT NOT NULL,
  PRIMARY KEY (group_name, position),
  UNIQUE (group_name, target)
) STRICT, WITHOUT ROWID;

CREATE TABLE groups (
  name TEXT NOT NULL PRIMARY KEY
) STRICT, WITHOUT ROWID;

CREATE TABLE idempotency (
  caller TEXT NOT NULL,
  originator TEXT NOT NULL,
  operation TEXT NOT NULL,
  key TEXT NOT NULL,
  input_hash BLOB NOT NULL CHECK (length(input_hash) = 32),
  run INTEGER NOT NULL,
  at INTEGER NOT NULL,
  outcome BLOB,
  PRIMARY KEY (caller, originator, operation, key)
) STRICT;

CREATE TABLE invites (
  id TEXT NOT NULL PRIMARY KEY,
  secret_hash BLOB NOT NULL CHECK (length(secret_hash) = 32),
  name TEXT,
  grants TEXT NOT NULL, -- JSON: list of targets
  created_at INTEGER NOT NULL,
  expires_at INTEGER NOT NULL,
  access_for_ms INTEGER,
  used_by TEXT,
  used_key BLOB CHECK (length(used_key) = 32),
  revoked INTEGER NOT NULL CHECK (revoked IN (0, 1))
) STRICT, WITHOUT ROWID;

CREATE TABLE meta (
  key TEXT NOT NULL PRIMARY KEY,
  value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE networks (
  id BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
  position INTEGER NOT NULL UNIQUE,
  sealed BLOB NOT NULL
, key_version INTEGER NOT NULL DEFAULT 0) STRICT, WITHOUT ROWID;

CREATE TABLE peer_groups (
  peer TEXT NOT NULL REFERENCES peers (id) ON DELETE CASCADE,
  group_name TEXT NOT NULL,
  PRIMARY KEY (peer, group_name)
) STRICT, WITHOUT ROWID;

CREATE TABLE peer_node_keys (
  key BLOB NOT NULL PRIMARY KEY CHECK (length(key) = 32),
  peer TEXT NOT NULL REFERENCES peers (id) ON DELETE CASCADE,
  position INTEGER NOT NULL,
  until INTEGER,
  UNIQUE (peer, position)
) STRICT, WITHOUT ROWID;

CREATE TABLE peer_places (
  key BLOB NOT NULL CHECK (length(key) = 32),
  address TEXT NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (key, address)
) STRICT, WITHOUT ROWID;

CREATE TABLE peer_ssh_cas (
  fingerprint TEXT NOT NULL,
  principal TEXT NOT NULL,
  peer TEXT NOT NULL REFERENCES peers (id) ON DELETE CASCADE,
  public_key TEXT NOT NULL,
  comment TEXT,
  PRIMARY KEY (fingerprint, principal)
) STRICT, WITHOUT ROWID;

CREATE TABLE peer_ssh_keys (
  fingerprint TEXT NOT NULL PRIMARY KEY,
  peer TEXT NOT NULL REFERENCES peers (id) ON DELETE CASCADE
, public_key TEXT, comment TEXT) STRICT, WITHOUT ROWID;

CREATE TABLE peers (
  id TEXT NOT NULL PRIMARY KEY,
  display_name TEXT NOT NULL,
  enabled INTEGER NOT NULL CHECK (enabled IN (0, 1)),
  expires_at INTEGER,
  created_at INTEGER NOT NULL,
  last_seen_at INTEGER,
  addresses TEXT NOT NULL -- JSON: direct, relays
) STRICT, WITHOUT ROWID;

CREATE INDEX audit_by_at ON audit (at);

CREATE INDEX audit_by_call ON audit (call_id);

CREATE INDEX audit_by_caller ON audit (caller);

CREATE INDEX audit_by_key ON audit (key) WHERE key IS NOT NULL;

CREATE INDEX audit_by_operation ON audit (operation);

CREATE INDEX audit_by_parent ON audit (parent_id) WHERE parent_id IS NOT NULL;

CREATE INDEX idempotency_by_at ON idempotency (at);

CREATE INDEX peer_groups_by_group ON peer_groups (group_name);

CREATE INDEX peer_ssh_cas_by_peer ON peer_ssh_cas (peer);

CREATE INDEX peer_ssh_keys_by_peer ON peer_ssh_keys (peer);
