-- Where peers were found, what they told of themselves, and the networks that
-- such records belong to.

-- Direct addresses of a node key over which a connection worked. No reference
-- to the key: a peer that is changed has its keys written anew.
CREATE TABLE peer_places (
  key BLOB NOT NULL CHECK (length(key) = 32),
  address TEXT NOT NULL,
  at INTEGER NOT NULL,
  PRIMARY KEY (key, address)
) STRICT, WITHOUT ROWID;

-- The networks this node is a member of, its own first. The secret is sealed
-- by the vault.
CREATE TABLE networks (
  id BLOB NOT NULL PRIMARY KEY CHECK (length(id) = 16),
  position INTEGER NOT NULL UNIQUE,
  sealed BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- The newest signed record of each node, this one included, in each network.
CREATE TABLE address_records (
  network BLOB NOT NULL CHECK (length(network) = 16),
  node BLOB NOT NULL CHECK (length(node) = 32),
  sequence INTEGER NOT NULL,
  record BLOB NOT NULL,
  PRIMARY KEY (network, node)
) STRICT, WITHOUT ROWID;
