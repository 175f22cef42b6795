"""One dataset, made ready for a trainer: chosen, split by rollout, and written in the format that it takes.

Two passes over the committed lines::

    lines ─► check ─► where ─► top rollouts ─► sample ─► split      (first pass: what is taken, and why not)
    taken lines ─► format ─► files, card, report ─► OUT             (second pass: one line at a time)

What is remembered between them is on disk; memory holds one line and one row group.
"""
