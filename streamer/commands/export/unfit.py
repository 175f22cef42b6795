"""Reasons that exclude a record from an export. Records of the first two kinds are also listed, one by one."""

from __future__ import annotations

import importlib
from enum import StrEnum
from types import ModuleType

from streamer.base.errors import MissingExtraError


class Exclusion(StrEnum):
    """A reason that excludes a record; the problems of lines (``schema.Kind``) are reasons, too."""

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
    """A record that a format cannot hold: the reason, and its details."""

    def __init__(self, reason: Exclusion, *details: str) -> None:
        super().__init__(reason, *details)
        self.reason = reason
        self.details = details


def extra(module: str, name: str, op: str, where: str, instead: str = "") -> ModuleType:
    """Return a module of the extra `export`.

    Args:
        module: The module to import.
        name: The name of its package, for the error.
        op: The operation that needs it.
        where: The part of the operation that needs it.
        instead: The end of the hint: another way out.

    Raises:
        MissingExtraError: the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError:
        hint = f"install the extra `export` (in a checkout: pip install '.[export]'){instead}"
        raise MissingExtraError(op, where, f"{name} is not installed", hint) from None
