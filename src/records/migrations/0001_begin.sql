-- Times are Unix milliseconds, hours and periods Unix seconds, quantities whole units.
-- Written for SQLite; `migrate` says the types and table options that PostgreSQL has other words for.

CREATE TABLE installation (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    id  TEXT NOT NULL
) STRICT;

-- AUTOINCREMENT: a number is never used again, since journals and history speak of tenants and keys by number.
CREATE TABLE tenant (
    num                    INTEGER PRIMARY KEY AUTOINCREMENT,
    id                     TEXT NOT NULL,
    name                   TEXT NOT NULL,
    email                  TEXT,
    plan                   TEXT NOT NULL,
    plan_version           INTEGER NOT NULL,
    stripe_customer_id     TEXT,
    stripe_subscription_id TEXT,
    status                 TEXT,
    status_since           INTEGER,
    trial_ends_at          INTEGER,
    period_anchor          INTEGER NOT NULL,
    period_interval        TEXT NOT NULL,
    created_at             INTEGER NOT NULL,
    updated_at             INTEGER NOT NULL,
    deleted_at             INTEGER
) STRICT;

-- A deleted tenant's name may be given again; its number, keys and usage stay its own.
CREATE INDEX tenant_by_change ON tenant (updated_at);
CREATE UNIQUE INDEX tenant_by_id ON tenant (id) WHERE deleted_at IS NULL;

CREATE TABLE api_key (
    num          INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant       INTEGER NOT NULL REFERENCES tenant (num),
    id           TEXT NOT NULL,
    name         TEXT NOT NULL,
    prefix       TEXT NOT NULL,
    sha256       BLOB NOT NULL,
    scopes       TEXT NOT NULL,
    expires_at   INTEGER,
    revoked_at   INTEGER,
    last_used_at INTEGER,
    created_at   INTEGER NOT NULL,
    -- Last revocation or change of expiry: what other nodes may have in memory is out of date since then.
    changed_at   INTEGER
) STRICT;

CREATE INDEX api_key_by_change ON api_key (changed_at) WHERE changed_at IS NOT NULL;
CREATE UNIQUE INDEX api_key_by_id ON api_key (id);
CREATE UNIQUE INDEX api_key_by_sha256 ON api_key (sha256);
CREATE INDEX api_key_by_tenant ON api_key (tenant, num);

-- closed_gen: ledger_gen when the node retired or was lost; it holds nothing in any later generation.
CREATE TABLE node (
    id            TEXT PRIMARY KEY,
    boot          INTEGER NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('live', 'retired', 'lost')),
    closed_gen    INTEGER NOT NULL DEFAULT 0,
    registered_at INTEGER NOT NULL,
    seen_at       INTEGER NOT NULL
) STRICT;

-- One journal per worker of a node. flushed_seq: everything up to it is counted in usage and history, nothing above.
CREATE TABLE journal (
    node        TEXT NOT NULL,
    worker      INTEGER NOT NULL,
    flushed_seq INTEGER NOT NULL,
    PRIMARY KEY (node, worker)
) STRICT, WITHOUT ROWID;

CREATE TABLE config_version (
    version INTEGER PRIMARY KEY AUTOINCREMENT,
    sha256  TEXT NOT NULL,
    at      INTEGER NOT NULL
) STRICT;

CREATE TABLE ledger_gen (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    gen INTEGER NOT NULL
) STRICT;

INSERT INTO ledger_gen (one, gen) VALUES (1, 1);

-- Totals that only grow: what each node has flushed of each account, and in which generation it last did.
CREATE TABLE usage (
    tenant    INTEGER NOT NULL,
    period    INTEGER NOT NULL,
    meter     TEXT NOT NULL,
    node      TEXT NOT NULL,
    total     INTEGER NOT NULL CHECK (total >= 0),
    flush_gen INTEGER NOT NULL,
    PRIMARY KEY (tenant, period, meter, node)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_by_flush ON usage (node, flush_gen);

-- reported: sum of all sealed reports; delivered: of those that Stripe has; k: number of the last report.
-- due_at: since when there is something to seal; null also while the tenant has no Stripe customer.
-- claimed_*: which node means to work on it, until when. Only saves the others the work.
CREATE TABLE account (
    tenant        INTEGER NOT NULL,
    period        INTEGER NOT NULL,
    meter         TEXT NOT NULL,
    reported      INTEGER NOT NULL DEFAULT 0 CHECK (reported >= 0),
    delivered     INTEGER NOT NULL DEFAULT 0 CHECK (delivered >= 0 AND delivered <= reported),
    k             INTEGER NOT NULL DEFAULT 0,
    due_at        INTEGER,
    claimed_until INTEGER,
    claimed_by    TEXT,
    PRIMARY KEY (tenant, period, meter)
) STRICT, WITHOUT ROWID;

CREATE INDEX account_due ON account (due_at) WHERE due_at IS NOT NULL;

-- suffix: received 5xx answers, for the idempotency key; renewals: how often it got a new identifier.
CREATE TABLE report (
    num           INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant        INTEGER NOT NULL,
    period        INTEGER NOT NULL,
    meter         TEXT NOT NULL,
    k             INTEGER NOT NULL,
    customer      TEXT NOT NULL,
    identifier    TEXT NOT NULL UNIQUE,
    renewals      INTEGER NOT NULL DEFAULT 0,
    value         INTEGER NOT NULL CHECK (value > 0),
    at            INTEGER NOT NULL,
    state         TEXT NOT NULL CHECK (state IN ('pending', 'delivered', 'rejected')),
    first_try     INTEGER,
    last_try      INTEGER,
    suffix        INTEGER NOT NULL DEFAULT 0,
    detail        TEXT,
    sealed_at     INTEGER NOT NULL,
    answered_at   INTEGER,
    claimed_until INTEGER,
    claimed_by    TEXT,
    UNIQUE (tenant, period, meter, k)
) STRICT;

-- What is unanswered is little, what is delivered grows for ever: neither is looked for among the other. `state` comes
-- first although it is always the same: SQLite prefers such an index to `report_by_state`.
CREATE INDEX report_pending ON report (state, customer, meter, num) WHERE state = 'pending';
CREATE INDEX report_pending_of_account ON report (state, tenant, period, meter) WHERE state = 'pending';
CREATE INDEX report_delivered ON report (customer, meter, at) WHERE state = 'delivered';
CREATE INDEX report_by_state ON report (state, num);
CREATE INDEX report_by_tenant ON report (tenant, num);

-- Identifiers that a report had before: never given again.
CREATE TABLE report_past (
    identifier  TEXT PRIMARY KEY,
    report      INTEGER NOT NULL REFERENCES report (num),
    replaced_at INTEGER NOT NULL
) STRICT;

CREATE TABLE history (
    tenant   INTEGER NOT NULL,
    hour_s   INTEGER NOT NULL,
    period   INTEGER NOT NULL,
    meter    TEXT NOT NULL,
    route    TEXT NOT NULL,
    status   INTEGER NOT NULL,
    outcome  INTEGER NOT NULL,
    key      INTEGER NOT NULL,
    units    INTEGER NOT NULL CHECK (units >= 0),
    requests INTEGER NOT NULL CHECK (requests >= 0),
    PRIMARY KEY (tenant, hour_s, period, meter, route, status, outcome, key)
) STRICT, WITHOUT ROWID;

-- The embedded ledger. cap null: none. turn_*: whose partly granted need is served first, how much it lacks, until when.
CREATE TABLE ledger_account (
    tenant       INTEGER NOT NULL,
    period       INTEGER NOT NULL,
    meter        TEXT NOT NULL,
    ver          INTEGER NOT NULL,
    cap          INTEGER,
    hungry_until INTEGER NOT NULL,
    turn_node    TEXT,
    turn_lack    INTEGER NOT NULL,
    turn_until   INTEGER NOT NULL,
    PRIMARY KEY (tenant, period, meter)
) STRICT, WITHOUT ROWID;

-- u: what the node has used; a: up to what it may hold; c: last settle applied.
CREATE TABLE ledger_hold (
    tenant INTEGER NOT NULL,
    period INTEGER NOT NULL,
    meter  TEXT NOT NULL,
    node   TEXT NOT NULL,
    u      INTEGER NOT NULL,
    a      INTEGER NOT NULL,
    c      INTEGER NOT NULL,
    PRIMARY KEY (tenant, period, meter, node)
) STRICT, WITHOUT ROWID;

CREATE TABLE audit (
    num     INTEGER PRIMARY KEY AUTOINCREMENT,
    at      INTEGER NOT NULL,
    actor   TEXT NOT NULL,
    action  TEXT NOT NULL,
    subject TEXT NOT NULL,
    detail  TEXT NOT NULL
) STRICT;
