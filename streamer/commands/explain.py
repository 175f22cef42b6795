"""``streamer explain``: why the records of a rollout or shard are, or are not, in the dataset."""

import os
from typing import Annotated

import typer

from streamer import config as configuration
from streamer.base.text import printable
from streamer.commands.common import UNEXPECTED, ConfigOption, JsonOption, print_json
from streamer.store.ledger.paths import is_session
from streamer.store.views.explain import Explanation, Reason
from streamer.store.views.explain import explain as explain_subject


def explain(
    subject: Annotated[str, typer.Argument(help="A session (run) id, a shard, or SHARD:LINE.")],
    *,
    config: ConfigOption = None,
    dataset: Annotated[str | None, typer.Option(help="The dataset; else the configured one.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say for every line of a rollout or shard where it stands, and why.

    Exit code: 0 explained, 1 nothing is known of it, 2 wrong usage, 3 the ledger cannot be read.

    Example: streamer explain eval-901 --dataset good.jsonl
    """
    files = configuration.dataset(config, os.environ, dataset)
    found = explain_subject(files.ledger, files.path, subject)
    if found is None:
        typer.echo(
            f"nothing is known of {printable(subject)}: no line of such a session or shard was read, and no such"
            " outcome row. `streamer status` says how far the daemon is, `streamer doctor` what is missing.",
            err=True,
        )
        raise typer.Exit(UNEXPECTED)
    if as_json:
        print_json(found)
        return
    for line in _as_text(found):
        typer.echo(printable(line))


def _as_text(found: Explanation) -> list[str]:
    lines = [found.subject]
    for row in found.outcomes:
        condition = "qualifies" if row.qualifies else "does not qualify"
        retracted = ", withdrawn after its records were written" if row.withdrawn else ""
        lines.append(
            f"  outcome row {row.id} of {row.created_at}: total_reward {row.total_reward}, {condition}{retracted}"
        )
    for reason in found.reasons:
        lines += _reason(reason, found.subject)
    return [*lines, f"  {found.note}"] if found.note else lines


def _reason(reason: Reason, subject: str) -> list[str]:
    last = reason.first_line + reason.lines - 1
    noun = "decision" if is_session(reason.shard) else "line"
    numbers = f"{noun} {last}" if reason.lines == 1 else f"{noun}s {reason.first_line}-{last}"
    session = f" (session {reason.session})" if reason.session not in ("", subject) else ""
    return [
        f"  {reason.shard} {numbers}{session}",
        f"    {reason.state.replace('_', ' ')}: {reason.because}",
        *(f"      {detail}" for detail in reason.details),
    ]
