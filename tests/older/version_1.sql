-- A database of schema version 1, as Aegis first wrote it.
CREATE TABLE meta (key VARCHAR PRIMARY KEY, value VARCHAR);
INSERT INTO meta VALUES ('schema_version', '1');
CREATE TABLE transactions (
    seq BIGINT NOT NULL, transaction_id VARCHAR NOT NULL, customer_id VARCHAR NOT NULL,
    ts TIMESTAMP NOT NULL, amount DOUBLE NOT NULL, currency VARCHAR, merchant_id VARCHAR,
    category VARCHAR, channel VARCHAR, lat DOUBLE, lon DOUBLE, source VARCHAR
);
CREATE TABLE labels (
    transaction_id VARCHAR NOT NULL, is_fraud BOOLEAN NOT NULL, scenario VARCHAR,
    known_at TIMESTAMP NOT NULL, source VARCHAR
);
CREATE TABLE verdicts (
    seq BIGINT NOT NULL, transaction_id VARCHAR NOT NULL, model_version VARCHAR NOT NULL,
    score DOUBLE NOT NULL, risk DOUBLE NOT NULL, decision VARCHAR NOT NULL,
    reasons STRUCT(factor VARCHAR, code VARCHAR, text VARCHAR, contribution DOUBLE)[],
    contributions STRUCT(amount DOUBLE, travel DOUBLE, hour DOUBLE, burst DOUBLE), evidence STRUCT(amount DOUBLE, travel DOUBLE, hour DOUBLE, burst DOUBLE), distance_km DOUBLE,
    scored_at TIMESTAMP NOT NULL
);
CREATE TABLE reviews (
    review_id VARCHAR NOT NULL, transaction_id VARCHAR NOT NULL, answer VARCHAR NOT NULL,
    analyst VARCHAR NOT NULL, note VARCHAR, answered_at TIMESTAMP NOT NULL
);
CREATE TABLE models (
    version VARCHAR PRIMARY KEY, detector VARCHAR NOT NULL, path VARCHAR NOT NULL,
    trained_from TIMESTAMP, trained_to TIMESTAMP, n_train BIGINT, parameters VARCHAR,
    data_hash VARCHAR, run_id VARCHAR, created_at TIMESTAMP NOT NULL, promoted_at TIMESTAMP
);
CREATE TABLE runs (
    run_id VARCHAR PRIMARY KEY, notebook VARCHAR NOT NULL, parameters VARCHAR,
    status VARCHAR NOT NULL, started_at TIMESTAMP NOT NULL, ended_at TIMESTAMP,
    cells_done INTEGER, cells_total INTEGER, data_hash VARCHAR, code_version VARCHAR,
    report_path VARCHAR, error VARCHAR
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
