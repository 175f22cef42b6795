"""Reasons under which lines are counted, beside those of dead letters and of record rules."""

from __future__ import annotations

AFTER_LAST_OUTCOME = "after_last_outcome"
"""Reason of waiting lines whose session has outcomes, all of them older than the record."""

RULE_CHANGED = "rule_changed"
"""Reason of waiting lines whose outcome has not been read under the present condition yet."""

SENT_AGAIN = "sent_again"
"""Reason of duplicates that had arrived from the same collector before."""

REWARDS_UNREAD = "turn_rewards_unread"
"""Reason of waiting lines whose rollout qualifies, and whose event rewards have not been read yet."""

NO_REWARD = "turn_reward"
"""Reason of lines whose turn has no reward, or one that is too small."""

AFTER_LAST_REWARD = "after_last_reward"
"""Reason of lines whose turn comes after the last one of its rollout that has a reward."""

REWARD_REASONS = (NO_REWARD, AFTER_LAST_REWARD)
"""Reasons of lines below the bar that a later reward can let in."""

NEAR = "near"
"""Reason of duplicates that only resemble a record of the dataset."""

CAP = "cap "
"""Every reason of a line that a cap keeps out begins so; what the cap counts by follows."""

UNREADABLE = "unreadable"
"""Reason of waiting lines whose shard could not be read when their outcome came."""

RETRACTED = "withdrawn"
"""Reason of lines below the bar whose rollout met the condition until its outcome row was corrected."""
