"""The daemon: the path of a line, and the loop that runs it for each dataset.

The path, in the order in which to read it:

1. ``pipeline``: one batch of lines: next batch, judge, settle, store, acknowledge, report.
2. ``telemetry``: timing and events of a batch.
3. ``build``: the wiring of a pipeline for one configuration, local or JetStream.
4. ``supervisor``: one dataset: pipeline after pipeline, with a pause after each failure.
5. ``daemon``: supervisors that share one loop, woken by notifications and ended by signals.

Beside the path: ``status`` (status text, time since the last change), ``watchdog`` (heartbeat) and ``observers``
(log, health, progress, systemd).
"""
