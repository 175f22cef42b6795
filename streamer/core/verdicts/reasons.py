"""The counted reasons of lines, by state. Those of dead letters are ``layouts.MalformedReason``.

A ledger stores them, so their values never change.
"""

from __future__ import annotations

# Of waiting lines
AFTER_LAST_OUTCOME = "after_last_outcome"
"""The session has outcomes, all of them older than the record."""

RULE_CHANGED = "rule_changed"
"""The outcome has not been read under the present condition yet."""

REWARDS_UNREAD = "turn_rewards_unread"
"""The rollout qualifies, and its event rewards have not been read yet."""

UNREADABLE = "unreadable"
"""The shard could not be read when the outcome came."""

# Of rejected lines
WHERE = "where"
"""The outcome does not meet the condition."""

NOT_A_NUMBER = "not_a_number"
"""A reward or count of the outcome is no number (``core.records.number``)."""

CONDITION_FAILED = "condition_failed"
"""SQLite could not evaluate the condition on the outcome, as on malformed JSON."""

CONDITION_TOO_SLOW = "condition_too_slow"
"""The condition took too long on the outcome."""

VALUE_TOO_LONG = "value_too_long"
"""The outcome's row holds a value that is too long for the condition to look at."""

RETRACTED = "withdrawn"
"""The outcome met the condition until its row was corrected."""

MODELS, IMAGES, TURN = "models", "images", "turn"
"""The record does not meet the record rule of this name."""

NO_REWARD = "turn_reward"
"""The turn has no reward, or one that is too small."""

AFTER_LAST_REWARD = "after_last_reward"
"""The turn comes after the last one of its rollout that has a reward."""

REWARD_REASONS = (NO_REWARD, AFTER_LAST_REWARD)
"""Reasons that a later event reward can remove."""

CAP = "cap "
"""Prefix of the reason of lines beyond a cap; the name that the cap counts by follows."""

# Of duplicate lines
NEAR = "near"
"""The line is a near-duplicate of a record in the dataset."""

SENT_AGAIN = "sent_again"
"""The line had arrived from the same collector before."""
