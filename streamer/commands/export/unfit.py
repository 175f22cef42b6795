"""Why a record is not in an export. Each reason is counted, and each record of the first two kinds is listed."""

from __future__ import annotations

from enum import StrEnum


class Exclusion(StrEnum):
    """Everything that keeps a record out, besides what ``check.Kind`` finds wrong with a line."""

    # of the line
    UNFINISHED = "unfinished"

    # of the format
    REMOTE_IMAGE = "remote_image"
    BAD_IMAGE = "bad_image"
    NO_IMAGE = "no_image"
    ONLY_IMAGES = "only_images"
    UNKNOWN_PART = "unknown_part"
    UNKNOWN_KEY = "unknown_key"
    ARGUMENTS = "arguments_no_object"
    TEXT_BESIDE_CALL = "text_beside_call"
    TURN_ORDER = "turn_order"
    IMAGE_TOKEN = "image_token"  # noqa: S105 - not a secret
    OPENAI = "openai_rules"

    # of the choice
    WHERE = "where"
    NO_REWARD = "no_reward"
    BELOW_TOP = "below_top"
    NOT_SAMPLED = "not_sampled"


class UnfitError(Exception):
    """A record that a format cannot hold as it is, for one reason, with all that is to be said about it."""

    def __init__(self, reason: Exclusion, *details: str) -> None:
        super().__init__(reason, *details)
        self.reason = reason
        self.details = details
