-- Keys of programs and people, outbound credentials, who is shut out, and
-- what of it the audit log tells.

-- The id of the API key that was presented, and the peer whose connection
-- carried a call that a presented key made another caller's.
ALTER TABLE audit ADD COLUMN key TEXT;
ALTER TABLE audit ADD COLUMN transport TEXT;
CREATE INDEX audit_by_key ON audit (key) WHERE key IS NOT NULL;

-- API keys: never the secret, only its hash. `grants` narrow what the peer
-- holds; NULL means all of it.
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

-- The whole key of an SSH key, where it is known: `ssh-ed25519 AAAA…`.
ALTER TABLE peer_ssh_keys ADD COLUMN public_key TEXT;
ALTER TABLE peer_ssh_keys ADD COLUMN comment TEXT;

-- Certificate authorities whose certificates for a principal stand for a peer.
CREATE TABLE peer_ssh_cas (
  fingerprint TEXT NOT NULL,
  principal TEXT NOT NULL,
  peer TEXT NOT NULL REFERENCES peers (id) ON DELETE CASCADE,
  public_key TEXT NOT NULL,
  comment TEXT,
  PRIMARY KEY (fingerprint, principal)
) STRICT, WITHOUT ROWID;
CREATE INDEX peer_ssh_cas_by_peer ON peer_ssh_cas (peer);

-- Secrets for the outside, sealed by the vault under a version of its sealing
-- key.
CREATE TABLE credentials (
  provider TEXT NOT NULL,
  account TEXT NOT NULL,
  key_version INTEGER NOT NULL,
  sealed BLOB NOT NULL,
  created_at INTEGER NOT NULL,
  updated_at INTEGER NOT NULL,
  PRIMARY KEY (provider, account)
) STRICT, WITHOUT ROWID;

-- Under which version of it the secret of a network is sealed; 0 for those
-- that were sealed before there were versions.
ALTER TABLE networks ADD COLUMN key_version INTEGER NOT NULL DEFAULT 0;

-- Addresses, node keys and peers that are shut out for a while.
CREATE TABLE bans (
  target TEXT NOT NULL PRIMARY KEY,
  reason TEXT NOT NULL,
  banned_by TEXT NOT NULL,
  created_at INTEGER NOT NULL,
  until INTEGER
) STRICT, WITHOUT ROWID;
