CREATE TABLE pgbench_branches (bid int PRIMARY KEY, bbalance int NOT NULL, filler char(88));

CREATE TABLE pgbench_tellers (tid int PRIMARY KEY, bid int NOT NULL, tbalance int NOT NULL, filler char(84));

CREATE TABLE pgbench_accounts (aid int PRIMARY KEY, bid int NOT NULL, abalance int NOT NULL, filler char(84));

CREATE TABLE pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));

INSERT INTO pgbench_branches SELECT n, 0, NULL FROM generate_series(1, 8) AS n;

INSERT INTO pgbench_tellers SELECT n, (n - 1) / 10 + 1, 0, NULL FROM generate_series(1, 80) AS n;

INSERT INTO pgbench_accounts SELECT n, (n - 1) / 10000 + 1, 0, '' FROM generate_series(1, 80000) AS n;

VACUUM ANALYZE;

CHECKPOINT;

