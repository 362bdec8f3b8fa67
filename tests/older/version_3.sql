-- A database of schema version 3, as the last commit with it made one.
CREATE TABLE meta (key VARCHAR PRIMARY KEY, value VARCHAR);
INSERT INTO meta VALUES ('schema_version', '3');
CREATE TABLE transactions (
    seq BIGINT NOT NULL, transaction_id VARCHAR NOT NULL, customer_id VARCHAR NOT NULL,
    ts TIMESTAMP NOT NULL, amount DOUBLE NOT NULL, currency VARCHAR, merchant_id VARCHAR,
    category VARCHAR, channel VARCHAR, lat DOUBLE, lon DOUBLE, source VARCHAR
);
CREATE TABLE labels (
    transaction_id VARCHAR NOT NULL, is_fraud BOOLEAN NOT NULL, scenario VARCHAR,
    known_at TIMESTAMP NOT NULL, source VARCHAR, after_seq BIGINT DEFAULT -1
);
CREATE TABLE verdicts (
    seq BIGINT NOT NULL, transaction_id VARCHAR NOT NULL, model_version VARCHAR NOT NULL,
    score DOUBLE NOT NULL, risk DOUBLE NOT NULL, decision VARCHAR NOT NULL,
    reasons STRUCT(factor VARCHAR, code VARCHAR, text VARCHAR, contribution DOUBLE)[],
    contributions STRUCT(amount DOUBLE, travel DOUBLE, hour DOUBLE, burst DOUBLE, merchant DOUBLE, customer DOUBLE), evidence STRUCT(amount DOUBLE, travel DOUBLE, hour DOUBLE, burst DOUBLE), distance_km DOUBLE,
    scored_at TIMESTAMP NOT NULL, cleared VARCHAR, inclusion DOUBLE, list_entry VARCHAR
);
CREATE TABLE shadow_scores (
    seq BIGINT NOT NULL, transaction_id VARCHAR NOT NULL, model_version VARCHAR NOT NULL,
    score DOUBLE NOT NULL, risk DOUBLE NOT NULL, decision VARCHAR NOT NULL
);
CREATE TABLE lists (
    entry_id VARCHAR NOT NULL, kind VARCHAR NOT NULL, field VARCHAR NOT NULL,
    value VARCHAR NOT NULL, until TIMESTAMP, who VARCHAR NOT NULL, why VARCHAR NOT NULL,
    added_at TIMESTAMP NOT NULL, ends VARCHAR
);
CREATE TABLE reviews (
    review_id VARCHAR NOT NULL, transaction_id VARCHAR NOT NULL, answer VARCHAR NOT NULL,
    analyst VARCHAR NOT NULL, note VARCHAR, answered_at TIMESTAMP NOT NULL,
    held_until TIMESTAMP, undoes VARCHAR
);
CREATE TABLE models (
    version VARCHAR PRIMARY KEY, detector VARCHAR NOT NULL, path VARCHAR NOT NULL,
    trained_from TIMESTAMP, trained_to TIMESTAMP, n_train BIGINT, parameters VARCHAR,
    data_hash VARCHAR, run_id VARCHAR, created_at TIMESTAMP NOT NULL, promoted_at TIMESTAMP,
    shadow_since TIMESTAMP
);
CREATE TABLE promotions (
    version VARCHAR NOT NULL, role VARCHAR NOT NULL, who VARCHAR NOT NULL,
    promoted_at TIMESTAMP NOT NULL
);
CREATE TABLE runs (
    run_id VARCHAR PRIMARY KEY, notebook VARCHAR NOT NULL, parameters VARCHAR,
    status VARCHAR NOT NULL, started_at TIMESTAMP NOT NULL, ended_at TIMESTAMP,
    cells_done INTEGER, cells_total INTEGER, data_hash VARCHAR, code_version VARCHAR,
    report_path VARCHAR, error VARCHAR, heading VARCHAR, seconds DOUBLE, peak_memory_mb DOUBLE,
    attempt INTEGER, retry_of VARCHAR, entry VARCHAR, due_at TIMESTAMP, notebook_hash VARCHAR,
    lock_hash VARCHAR, settings VARCHAR, seed BIGINT, last_seq BIGINT, n_labels BIGINT,
    model_version VARCHAR, pid BIGINT
);
CREATE TABLE metrics (
    run_id VARCHAR NOT NULL, name VARCHAR NOT NULL, slice VARCHAR NOT NULL, value DOUBLE
);
CREATE TABLE evaluation_scores (
    run_id VARCHAR NOT NULL, transaction_id VARCHAR NOT NULL, detector VARCHAR NOT NULL,
    score DOUBLE NOT NULL
);
CREATE TABLE rejected (
    received_at TIMESTAMP NOT NULL, source VARCHAR, raw VARCHAR, reason VARCHAR NOT NULL
);
CREATE TABLE service_stats (
    noted_at TIMESTAMP NOT NULL, seconds DOUBLE NOT NULL, transactions BIGINT NOT NULL,
    p50_ms DOUBLE, p99_ms DOUBLE, waiting BIGINT NOT NULL
);
CREATE TABLE drift (
    day DATE NOT NULL, measure VARCHAR NOT NULL, part VARCHAR NOT NULL, value DOUBLE,
    usual DOUBLE, effect DOUBLE, low DOUBLE, high DOUBLE, alarm BOOLEAN NOT NULL,
    found_at TIMESTAMP NOT NULL, run_id VARCHAR NOT NULL, told VARCHAR
);
CREATE TABLE notifications (
    notification_id VARCHAR NOT NULL, rule VARCHAR NOT NULL, target VARCHAR NOT NULL,
    what VARCHAR NOT NULL, event VARCHAR NOT NULL, dedupe_key VARCHAR NOT NULL,
    title VARCHAR NOT NULL, text VARCHAR NOT NULL, status VARCHAR NOT NULL,
    attempts INTEGER NOT NULL, message_id VARCHAR, created_at TIMESTAMP NOT NULL,
    due_at TIMESTAMP NOT NULL, tried_at TIMESTAMP, sent_at TIMESTAMP, error VARCHAR
);
CREATE TABLE notify_cursors (
    rule VARCHAR NOT NULL, what VARCHAR NOT NULL, position VARCHAR NOT NULL
);
CREATE TABLE audit (
    seq BIGINT PRIMARY KEY, recorded_at TIMESTAMP NOT NULL, who VARCHAR NOT NULL,
    action VARCHAR NOT NULL, subject VARCHAR NOT NULL, details VARCHAR NOT NULL,
    before VARCHAR NOT NULL, hash VARCHAR NOT NULL
);
CREATE TABLE nominations (
    proposal_id VARCHAR NOT NULL, version VARCHAR NOT NULL, champion VARCHAR NOT NULL,
    files_hash VARCHAR NOT NULL, comparison VARCHAR NOT NULL, who VARCHAR NOT NULL,
    why VARCHAR, proposed_at TIMESTAMP NOT NULL, outcome VARCHAR, decided_by VARCHAR,
    decided_at TIMESTAMP, note VARCHAR
);
CREATE TABLE carried (
    cut BIGINT NOT NULL, name VARCHAR NOT NULL, part INTEGER NOT NULL, data BLOB NOT NULL
);
CREATE TABLE remains (
    transaction_id VARCHAR NOT NULL, customer_id VARCHAR NOT NULL, merchant_id VARCHAR,
    ts TIMESTAMP NOT NULL
);
CREATE TABLE claims (
    customer_id VARCHAR NOT NULL, turn BIGINT NOT NULL, case_id VARCHAR NOT NULL,
    analyst VARCHAR NOT NULL, claimed_at TIMESTAMP NOT NULL, until TIMESTAMP NOT NULL,
    released_at TIMESTAMP, PRIMARY KEY (customer_id, turn)
);
CREATE TABLE taught (
    review_id VARCHAR PRIMARY KEY, taught_at TIMESTAMP NOT NULL
);
CREATE TABLE proposals (
    proposal_id VARCHAR NOT NULL, proposed_at TIMESTAMP NOT NULL, who VARCHAR NOT NULL,
    kind VARCHAR NOT NULL, content VARCHAR NOT NULL, note VARCHAR
);
CREATE TABLE rollups (
    minute TIMESTAMP, decision VARCHAR, factor VARCHAR, category VARCHAR, currency VARCHAR,
    n BIGINT NOT NULL, amount DECIMAL(38, 6) NOT NULL, first_seq BIGINT NOT NULL,
    last_seq BIGINT NOT NULL, PRIMARY KEY (minute, decision, factor, category, currency)
);
CREATE TABLE proofs (
    proved_at TIMESTAMP NOT NULL, checked BIGINT NOT NULL, different BIGINT NOT NULL
);
