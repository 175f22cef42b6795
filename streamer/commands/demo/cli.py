"""``streamer demo``: a daemon beside a producer, its dataset growing live, the counts at the end."""

from datetime import datetime
from pathlib import Path
from typing import Annotated

import typer

from streamer.base.errors import ConfigError
from streamer.base.text import printable
from streamer.commands.demo.episodes import require_crafter
from streamer.commands.demo.show import Show
from streamer.commands.simulation.workspace import Workspace


def demo(
    rollouts: Annotated[int, typer.Option(min=5, help="How many to play; five show every fate.")] = 24,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode.")] = 7,
    folder: Annotated[
        Path | None,
        typer.Option(help="New or empty folder for everything.", show_default="demo-run/<Y-m-d_H-M-S>"),
    ] = None,
    pace: Annotated[float, typer.Option(min=0, help="Seconds between two rollouts.")] = 0.4,
) -> None:
    """Watch a dataset grow: a real producer plays Crafter while a daemon reads along.

    Needs the extra `demo` (in a checkout: pip install '.[demo]'). Everything stays in one folder, to look at.

    Example: streamer demo --rollouts 12 --folder /tmp/crafter-demo
    """
    require_crafter()
    show = Show(Workspace(_new_folder(folder), "high_reward.jsonl"), rollouts, seed, pace)
    try:
        faults = show.run()
    except KeyboardInterrupt:
        typer.echo(f"Interrupted; daemon and producer are stopped. What there is: {_shown(show.workspace.folder)}")
        raise typer.Exit(130) from None
    for fault in faults:
        typer.echo(f"FAILED: {fault}", err=True)
    raise typer.Exit(1 if faults else 0)


def _new_folder(folder: Path | None) -> Path:
    """Make the folder of the demo; refuse one that is not empty, as its counts would not add up."""
    folder = folder or Path("demo-run") / f"{datetime.now().astimezone():%Y-%m-%d_%H-%M-%S}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        used = any(folder.iterdir())
    except OSError as error:
        raise ConfigError("make the folder", _shown(folder), error.strerror or str(error)) from error
    if used:
        raise ConfigError("use the folder", _shown(folder), "it is not empty", "give a new one with --folder")
    (folder / "shards").mkdir()
    return folder.resolve()


def _shown(path: Path) -> str:
    return printable(str(path))
