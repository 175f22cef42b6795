"""Exports a dataset for a trainer: selects records, splits them by rollout, and writes them in the trainer's format.

Two passes over the committed lines::

    lines ─► check ─► where ─► top rollouts ─► sample ─► split      (first pass: selects, and counts exclusions)
    selected lines ─► format ─► files, card, report ─► OUT          (second pass: one line at a time)

The selection is on disk; memory holds one line and one row group.
"""
