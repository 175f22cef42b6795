PRAGMA application_id=0;
PRAGMA user_version=0;
PRAGMA journal_mode=delete;
BEGIN TRANSACTION;
CREATE TABLE experiments (experiment_id VARCHAR PRIMARY KEY, name VARCHAR);
CREATE TABLE outcome_rewards (
  id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL, total_reward INTEGER NOT NULL,
  achievements_count INTEGER NOT NULL, total_steps INTEGER NOT NULL, created_at DATETIME NOT NULL,
  reward_metadata TEXT, FOREIGN KEY(session_id) REFERENCES session_traces(session_id)
);
INSERT INTO "outcome_rewards" VALUES(1,'delivered',1,1,8,'2026-01-01T00:00:10+00:00','{"env_id": "env", "policy_id": "policy", "env_seed": 7, "final_achievements": []}');
INSERT INTO "outcome_rewards" VALUES(2,'second',1,1,8,'2026-01-01T00:00:10+00:00','{"env_id": "env", "policy_id": "policy", "env_seed": 7, "final_achievements": []}');
INSERT INTO "outcome_rewards" VALUES(3,'waits',1,1,8,'2026-01-01T00:00:10+00:00','{"env_id": "env", "policy_id": "policy", "env_seed": 7, "final_achievements": []}');
CREATE TABLE session_traces (
  session_id VARCHAR PRIMARY KEY, created_at DATETIME NOT NULL, num_timesteps INTEGER NOT NULL,
  num_events INTEGER NOT NULL, num_messages INTEGER NOT NULL, metadata TEXT, experiment_id VARCHAR,
  embedding VECTOR, FOREIGN KEY(experiment_id) REFERENCES experiments(experiment_id)
);
INSERT INTO "session_traces" VALUES('delivered','2026-01-01T00:00:10+00:00',8,8,16,'{"run_id": "delivered", "env_name": "crafter", "seed": 7}',NULL,NULL);
INSERT INTO "session_traces" VALUES('second','2026-01-01T00:00:10+00:00',8,8,16,'{"run_id": "second", "env_name": "crafter", "seed": 7}',NULL,NULL);
INSERT INTO "session_traces" VALUES('waits','2026-01-01T00:00:10+00:00',8,8,16,'{"run_id": "waits", "env_name": "crafter", "seed": 7}',NULL,NULL);
CREATE INDEX idx_outcome_rewards_session ON outcome_rewards (session_id);
CREATE INDEX idx_outcome_rewards_total ON outcome_rewards (total_reward);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('outcome_rewards',3);
COMMIT;
