PRAGMA application_id=0;
PRAGMA user_version=0;
PRAGMA journal_mode=delete;
BEGIN TRANSACTION;
CREATE TABLE event_rewards (
  id INTEGER PRIMARY KEY AUTOINCREMENT, event_id INTEGER NOT NULL, session_id VARCHAR NOT NULL, message_id INTEGER,
  turn_number INTEGER, reward_value FLOAT NOT NULL, reward_type VARCHAR, "key" VARCHAR, annotation TEXT,
  source VARCHAR, created_at DATETIME NOT NULL
);
INSERT INTO "event_rewards" VALUES(1,1,'aged-out',NULL,0,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_0"]}','environment','2026-01-01T00:00:00.500000+00:00');
INSERT INTO "event_rewards" VALUES(2,2,'aged-out',NULL,1,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_1"]}','environment','2026-01-01T00:00:01.500000+00:00');
INSERT INTO "event_rewards" VALUES(3,3,'aged-out',NULL,2,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_2"]}','environment','2026-01-01T00:00:02.500000+00:00');
INSERT INTO "event_rewards" VALUES(4,4,'aged-out',NULL,3,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_3"]}','environment','2026-01-01T00:00:03.500000+00:00');
INSERT INTO "event_rewards" VALUES(5,5,'kept',NULL,0,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_0"]}','environment','2026-01-01T00:00:00.500000+00:00');
INSERT INTO "event_rewards" VALUES(6,6,'kept',NULL,1,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_1"]}','environment','2026-01-01T00:00:01.500000+00:00');
INSERT INTO "event_rewards" VALUES(7,7,'kept',NULL,2,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_2"]}','environment','2026-01-01T00:00:02.500000+00:00');
INSERT INTO "event_rewards" VALUES(8,8,'kept',NULL,3,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_3"]}','environment','2026-01-01T00:00:03.500000+00:00');
INSERT INTO "event_rewards" VALUES(9,9,'compacted',NULL,0,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_0"]}','environment','2026-01-01T00:00:00.500000+00:00');
INSERT INTO "event_rewards" VALUES(10,10,'compacted',NULL,1,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_1"]}','environment','2026-01-01T00:00:01.500000+00:00');
INSERT INTO "event_rewards" VALUES(11,11,'beside',NULL,0,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_0"]}','environment','2026-01-01T00:00:00.500000+00:00');
INSERT INTO "event_rewards" VALUES(12,12,'beside',NULL,1,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_1"]}','environment','2026-01-01T00:00:01.500000+00:00');
INSERT INTO "event_rewards" VALUES(13,13,'beside',NULL,2,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_2"]}','environment','2026-01-01T00:00:02.500000+00:00');
INSERT INTO "event_rewards" VALUES(14,14,'good',NULL,0,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_0"]}','environment','2026-01-01T00:00:00.500000+00:00');
INSERT INTO "event_rewards" VALUES(15,15,'good',NULL,1,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_1"]}','environment','2026-01-01T00:00:01.500000+00:00');
INSERT INTO "event_rewards" VALUES(16,16,'good',NULL,2,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_2"]}','environment','2026-01-01T00:00:02.500000+00:00');
INSERT INTO "event_rewards" VALUES(17,17,'good',NULL,3,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_3"]}','environment','2026-01-01T00:00:03.500000+00:00');
INSERT INTO "event_rewards" VALUES(18,18,'good',NULL,4,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_4"]}','environment','2026-01-01T00:00:04.500000+00:00');
INSERT INTO "event_rewards" VALUES(19,19,'bad',NULL,0,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_0"]}','environment','2026-01-01T00:00:00.500000+00:00');
INSERT INTO "event_rewards" VALUES(20,20,'bad',NULL,1,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_1"]}','environment','2026-01-01T00:00:01.500000+00:00');
INSERT INTO "event_rewards" VALUES(21,21,'late',NULL,0,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_0"]}','environment','2026-01-01T00:00:00.500000+00:00');
INSERT INTO "event_rewards" VALUES(22,22,'late',NULL,1,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_1"]}','environment','2026-01-01T00:00:01.500000+00:00');
INSERT INTO "event_rewards" VALUES(23,23,'capped-1',NULL,0,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_0"]}','environment','2026-01-01T00:00:00.500000+00:00');
INSERT INTO "event_rewards" VALUES(24,24,'capped-1',NULL,1,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_1"]}','environment','2026-01-01T00:00:01.500000+00:00');
INSERT INTO "event_rewards" VALUES(25,25,'capped-1',NULL,2,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_2"]}','environment','2026-01-01T00:00:02.500000+00:00');
INSERT INTO "event_rewards" VALUES(26,26,'capped-1',NULL,3,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_3"]}','environment','2026-01-01T00:00:03.500000+00:00');
INSERT INTO "event_rewards" VALUES(27,27,'capped-2',NULL,0,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_0"]}','environment','2026-01-01T00:00:00.500000+00:00');
INSERT INTO "event_rewards" VALUES(28,28,'capped-2',NULL,1,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_1"]}','environment','2026-01-01T00:00:01.500000+00:00');
INSERT INTO "event_rewards" VALUES(29,29,'capped-2',NULL,2,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_2"]}','environment','2026-01-01T00:00:02.500000+00:00');
INSERT INTO "event_rewards" VALUES(30,30,'capped-2',NULL,3,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_3"]}','environment','2026-01-01T00:00:03.500000+00:00');
INSERT INTO "event_rewards" VALUES(31,31,'retracted',NULL,0,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_0"]}','environment','2026-01-01T00:00:00.500000+00:00');
INSERT INTO "event_rewards" VALUES(32,32,'retracted',NULL,1,1.0,'achievement_delta',NULL,'{"achievements": ["achievement_1"]}','environment','2026-01-01T00:00:01.500000+00:00');
INSERT INTO "event_rewards" VALUES(33,33,'plain',NULL,1,1.0,'achievement_delta',NULL,'{"achievements": []}','environment','2026-01-01T00:00:01+00:00');
INSERT INTO "event_rewards" VALUES(34,34,'database',NULL,1,1.0,'achievement_delta',NULL,'{"achievements": []}','environment','2026-01-01T00:00:01+00:00');
CREATE TABLE events (
  id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL, timestep_id INTEGER, event_type VARCHAR NOT NULL,
  event_time FLOAT, model_name VARCHAR, provider VARCHAR, call_records TEXT, metadata TEXT
);
INSERT INTO "events" VALUES(1,'aged-out',NULL,'environment',1767225600.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(2,'aged-out',NULL,'environment',1767225601.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(3,'aged-out',NULL,'environment',1767225602.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(4,'aged-out',NULL,'environment',1767225603.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(5,'kept',NULL,'environment',1767225600.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(6,'kept',NULL,'environment',1767225601.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(7,'kept',NULL,'environment',1767225602.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(8,'kept',NULL,'environment',1767225603.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(9,'compacted',NULL,'environment',1767225600.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(10,'compacted',NULL,'environment',1767225601.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(11,'beside',NULL,'environment',1767225600.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(12,'beside',NULL,'environment',1767225601.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(13,'beside',NULL,'environment',1767225602.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(14,'good',NULL,'environment',1767225600.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(15,'good',NULL,'environment',1767225601.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(16,'good',NULL,'environment',1767225602.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(17,'good',NULL,'environment',1767225603.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(18,'good',NULL,'environment',1767225604.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(19,'bad',NULL,'environment',1767225600.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(20,'bad',NULL,'environment',1767225601.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(21,'late',NULL,'environment',1767225600.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(22,'late',NULL,'environment',1767225601.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(23,'capped-1',NULL,'environment',1767225600.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(24,'capped-1',NULL,'environment',1767225601.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(25,'capped-1',NULL,'environment',1767225602.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(26,'capped-1',NULL,'environment',1767225603.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(27,'capped-2',NULL,'environment',1767225600.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(28,'capped-2',NULL,'environment',1767225601.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(29,'capped-2',NULL,'environment',1767225602.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(30,'capped-2',NULL,'environment',1767225603.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(31,'retracted',NULL,'environment',1767225600.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(32,'retracted',NULL,'environment',1767225601.5,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(33,'plain',NULL,'environment',1767225601.0,NULL,NULL,NULL,NULL);
INSERT INTO "events" VALUES(34,'database',NULL,'environment',1767225601.0,NULL,NULL,NULL,NULL);
CREATE TABLE experiments (experiment_id VARCHAR PRIMARY KEY, name VARCHAR);
CREATE TABLE messages (
  id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL, timestep_id INTEGER,
  message_type VARCHAR NOT NULL, content TEXT NOT NULL, timestamp DATETIME, event_time FLOAT, message_time INTEGER,
  metadata TEXT, embedding VECTOR, FOREIGN KEY(session_id) REFERENCES session_traces(session_id)
);
INSERT INTO "messages" VALUES(1,'database',1,'system','{"role": "system", "text": "You are playing Crafter.", "content": "You are playing Crafter."}',NULL,1767225600.0,NULL,'{"turn": 0, "step_id": "decision_0"}',NULL);
INSERT INTO "messages" VALUES(2,'database',1,'user','{"role": "user", "text": "database-0-0 database-0-1 database-0-2 database-0-3 database-0-4 database-0-5 database-0-6 database-0-7 database-0-8 database-0-9 database-0-10 database-0-11 database-0-12 database-0-13 database-0-14 database-0-15 database-0-16 database-0-17 database-0-18 database-0-19 database-0-20 database-0-21 database-0-22 database-0-23 database-0-24 database-0-25 database-0-26 database-0-27 database-0-28 database-0-29", "content": "database-0-0 database-0-1 database-0-2 database-0-3 database-0-4 database-0-5 database-0-6 database-0-7 database-0-8 database-0-9 database-0-10 database-0-11 database-0-12 database-0-13 database-0-14 database-0-15 database-0-16 database-0-17 database-0-18 database-0-19 database-0-20 database-0-21 database-0-22 database-0-23 database-0-24 database-0-25 database-0-26 database-0-27 database-0-28 database-0-29"}',NULL,1767225600.0,NULL,'{"turn": 0, "step_id": "decision_0"}',NULL);
INSERT INTO "messages" VALUES(3,'database',1,'assistant','[{"tool_name": "interact_many", "arguments": {"actions": ["do"]}}]',NULL,1767225600.0,NULL,'{"turn": 0, "step_id": "decision_0", "is_tool_call": true}',NULL);
INSERT INTO "messages" VALUES(4,'database',2,'system','{"role": "system", "text": "You are playing Crafter.", "content": "You are playing Crafter."}',NULL,1767225601.0,NULL,'{"turn": 1, "step_id": "decision_1"}',NULL);
INSERT INTO "messages" VALUES(5,'database',2,'user','{"role": "user", "text": "database-1-0 database-1-1 database-1-2 database-1-3 database-1-4 database-1-5 database-1-6 database-1-7 database-1-8 database-1-9 database-1-10 database-1-11 database-1-12 database-1-13 database-1-14 database-1-15 database-1-16 database-1-17 database-1-18 database-1-19 database-1-20 database-1-21 database-1-22 database-1-23 database-1-24 database-1-25 database-1-26 database-1-27 database-1-28 database-1-29", "content": "database-1-0 database-1-1 database-1-2 database-1-3 database-1-4 database-1-5 database-1-6 database-1-7 database-1-8 database-1-9 database-1-10 database-1-11 database-1-12 database-1-13 database-1-14 database-1-15 database-1-16 database-1-17 database-1-18 database-1-19 database-1-20 database-1-21 database-1-22 database-1-23 database-1-24 database-1-25 database-1-26 database-1-27 database-1-28 database-1-29"}',NULL,1767225601.0,NULL,'{"turn": 1, "step_id": "decision_1"}',NULL);
INSERT INTO "messages" VALUES(6,'database',2,'assistant','[{"tool_name": "interact_many", "arguments": {"actions": ["do"]}}]',NULL,1767225601.0,NULL,'{"turn": 1, "step_id": "decision_1", "is_tool_call": true}',NULL);
CREATE TABLE outcome_rewards (
  id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL, total_reward INTEGER NOT NULL,
  achievements_count INTEGER NOT NULL, total_steps INTEGER NOT NULL, created_at DATETIME NOT NULL,
  reward_metadata TEXT, FOREIGN KEY(session_id) REFERENCES session_traces(session_id)
);
INSERT INTO "outcome_rewards" VALUES(1,'aged-out',1,1,8,'2026-01-01T00:00:10+00:00','{"env_id": "env", "policy_id": "policy", "env_seed": 1, "final_achievements": []}');
INSERT INTO "outcome_rewards" VALUES(2,'kept',1,1,8,'2026-01-01T00:00:10+00:00','{"env_id": "env", "policy_id": "policy", "env_seed": 2, "final_achievements": []}');
INSERT INTO "outcome_rewards" VALUES(3,'compacted',0,1,8,'2026-01-01T00:00:10+00:00','{"env_id": "env", "policy_id": "policy", "env_seed": 3, "final_achievements": []}');
INSERT INTO "outcome_rewards" VALUES(4,'beside',1,1,8,'2026-01-01T00:00:10+00:00','{"env_id": "env", "policy_id": "policy", "env_seed": 4, "final_achievements": []}');
INSERT INTO "outcome_rewards" VALUES(5,'good',1,1,8,'2026-01-01T00:00:10+00:00','{"env_id": "env", "policy_id": "policy", "env_seed": 5, "final_achievements": []}');
INSERT INTO "outcome_rewards" VALUES(6,'bad',0,1,8,'2026-01-01T00:00:10+00:00','{"env_id": "env", "policy_id": "policy", "env_seed": 6, "final_achievements": []}');
INSERT INTO "outcome_rewards" VALUES(7,'late',1,1,8,'2026-01-01T00:00:10+00:00','{"env_id": "env", "policy_id": "policy", "env_seed": 7, "final_achievements": []}');
INSERT INTO "outcome_rewards" VALUES(8,'unrewarded',1,1,8,'2026-01-01T00:00:10+00:00','{"env_id": "env", "policy_id": "policy", "env_seed": 8, "final_achievements": []}');
INSERT INTO "outcome_rewards" VALUES(9,'capped-1',1,1,8,'2026-01-01T00:00:10+00:00','{"env_id": "env", "policy_id": "policy", "env_seed": 9, "final_achievements": []}');
INSERT INTO "outcome_rewards" VALUES(10,'capped-2',1,1,8,'2026-01-01T00:00:10+00:00','{"env_id": "env", "policy_id": "policy", "env_seed": 9, "final_achievements": []}');
INSERT INTO "outcome_rewards" VALUES(11,'retracted',0,1,8,'2026-01-01T00:00:10+00:00','{"env_id": "env", "policy_id": "policy", "env_seed": 10, "final_achievements": []}');
INSERT INTO "outcome_rewards" VALUES(12,'plain',1,1,8,'2026-01-01T00:00:10+00:00','{"env_id": "env", "policy_id": "policy", "env_seed": 11, "final_achievements": []}');
INSERT INTO "outcome_rewards" VALUES(13,'database',1,1,8,'2026-01-01T00:01:40+00:00',NULL);
CREATE TABLE session_timesteps (
  id INTEGER PRIMARY KEY AUTOINCREMENT, session_id VARCHAR NOT NULL, step_id VARCHAR NOT NULL,
  step_index INTEGER NOT NULL, turn_number INTEGER, UNIQUE(session_id, step_id)
);
CREATE TABLE session_traces (
  session_id VARCHAR PRIMARY KEY, created_at DATETIME NOT NULL, num_timesteps INTEGER NOT NULL,
  num_events INTEGER NOT NULL, num_messages INTEGER NOT NULL, metadata TEXT, experiment_id VARCHAR,
  embedding VECTOR, FOREIGN KEY(experiment_id) REFERENCES experiments(experiment_id)
);
INSERT INTO "session_traces" VALUES('aged-out','2026-01-01T00:00:10+00:00',8,8,16,'{"run_id": "aged-out", "env_name": "crafter", "seed": 7}',NULL,NULL);
INSERT INTO "session_traces" VALUES('kept','2026-01-01T00:00:10+00:00',8,8,16,'{"run_id": "kept", "env_name": "crafter", "seed": 7}',NULL,NULL);
INSERT INTO "session_traces" VALUES('compacted','2026-01-01T00:00:10+00:00',8,8,16,'{"run_id": "compacted", "env_name": "crafter", "seed": 7}',NULL,NULL);
INSERT INTO "session_traces" VALUES('beside','2026-01-01T00:00:10+00:00',8,8,16,'{"run_id": "beside", "env_name": "crafter", "seed": 7}',NULL,NULL);
INSERT INTO "session_traces" VALUES('good','2026-01-01T00:00:10+00:00',8,8,16,'{"run_id": "good", "env_name": "crafter", "seed": 7}',NULL,NULL);
INSERT INTO "session_traces" VALUES('bad','2026-01-01T00:00:10+00:00',8,8,16,'{"run_id": "bad", "env_name": "crafter", "seed": 7}',NULL,NULL);
INSERT INTO "session_traces" VALUES('late','2026-01-01T00:00:10+00:00',8,8,16,'{"run_id": "late", "env_name": "crafter", "seed": 7}',NULL,NULL);
INSERT INTO "session_traces" VALUES('unrewarded','2026-01-01T00:00:10+00:00',8,8,16,'{"run_id": "unrewarded", "env_name": "crafter", "seed": 7}',NULL,NULL);
INSERT INTO "session_traces" VALUES('capped-1','2026-01-01T00:00:10+00:00',8,8,16,'{"run_id": "capped-1", "env_name": "crafter", "seed": 7}',NULL,NULL);
INSERT INTO "session_traces" VALUES('capped-2','2026-01-01T00:00:10+00:00',8,8,16,'{"run_id": "capped-2", "env_name": "crafter", "seed": 7}',NULL,NULL);
INSERT INTO "session_traces" VALUES('retracted','2026-01-01T00:00:10+00:00',8,8,16,'{"run_id": "retracted", "env_name": "crafter", "seed": 7}',NULL,NULL);
INSERT INTO "session_traces" VALUES('plain','2026-01-01T00:00:10+00:00',8,8,16,'{"run_id": "plain", "env_name": "crafter", "seed": 7}',NULL,NULL);
INSERT INTO "session_traces" VALUES('database','2026-01-01T00:00:00+00:00',1,0,6,'{"run_id": "database", "env_name": "crafter", "policy_name": "crafter-react", "seed": 7}',NULL,NULL);
CREATE INDEX idx_outcome_rewards_session ON outcome_rewards (session_id);
CREATE INDEX idx_outcome_rewards_total ON outcome_rewards (total_reward);
CREATE INDEX idx_session_created ON session_traces (created_at);
CREATE INDEX idx_event_session_step ON events (session_id, timestep_id);
CREATE INDEX idx_message_session_step ON messages (session_id, timestep_id);
CREATE INDEX idx_message_type ON messages (message_type);
CREATE INDEX idx_event_rewards_session ON event_rewards (session_id);
CREATE INDEX idx_event_rewards_event ON event_rewards (event_id);
CREATE INDEX idx_event_rewards_type ON event_rewards (reward_type);
DELETE FROM "sqlite_sequence";
INSERT INTO "sqlite_sequence" VALUES('outcome_rewards',13);
INSERT INTO "sqlite_sequence" VALUES('events',34);
INSERT INTO "sqlite_sequence" VALUES('event_rewards',34);
INSERT INTO "sqlite_sequence" VALUES('messages',6);
COMMIT;
