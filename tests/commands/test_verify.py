"""Checks of a dataset: one line, a whole file, and the command that shows what was found."""

from __future__ import annotations

import base64
import io
import json
import os
import pty
import subprocess
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import streamer
from streamer.base.errors import ConfigError, MissingExtraError
from streamer.base.spill_counts import Tally
from streamer.commands.verify.cli import verify
from streamer.commands.verify.inspect import FINDINGS_KEPT, VerifyReport, inspect
from streamer.core.records.key import DedupBy
from streamer.core.records.layouts import MalformedError, read
from streamer.core.records.schema import METADATA_KEYS, Kind, check_line

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

APP = typer.Typer()
APP.command()(verify)

CALL = {"id": "c1", "type": "function", "function": {"name": "act", "arguments": '{"do": "collect"}'}}


def record(turn: int = 0, **metadata: Any) -> dict[str, Any]:
    """Return the value of a good dataset line."""
    return {
        "messages": [
            {"role": "system", "content": "You play."},
            {"role": "user", "content": f"turn {turn}"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
        ],
        "metadata": {
            **dict.fromkeys(METADATA_KEYS),
            "run_id": "run-a",
            "turn": turn,
            "model": "gpt-5-nano",
            "total_reward": 3,
            "has_image": False,
            **metadata,
        },
    }


def with_message(**message: Any) -> dict[str, Any]:
    """Return the value of a line with one more message before the reply."""
    line = record()
    line["messages"].insert(2, message)
    return line


def with_image(url: object) -> dict[str, Any]:
    """Return the value of a line whose user shows an image."""
    line = with_message(role="user", content=[{"type": "image_url", "image_url": {"url": url}}])
    line["metadata"]["has_image"] = True
    return line


def without(line: dict[str, Any], *path: Any) -> dict[str, Any]:
    """Return the line without the value at the end of ``path``."""
    *way, last = path
    where: Any = line
    for step in way:
        where = where[step]
    del where[last]
    return line


def encoded(line: object) -> bytes:
    """Return a line as it stands in a dataset."""
    return json.dumps(line).encode() + b"\n"


def png(mode: str = "RGB", width: int = 4) -> bytes:
    """Return a real image."""
    file = io.BytesIO()
    Image.new(mode, (width, 4)).save(file, "PNG")
    return file.getvalue()


def data_url(data: bytes, media_type: str = "image/png") -> str:
    """Return bytes as the URL that holds them."""
    return f"data:{media_type};base64,{base64.b64encode(data).decode()}"


def png_header(width: int, height: int) -> bytes:
    """Return the start of an image that claims any size, in a few bytes."""
    chunk = b"IHDR" + width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x02\0\0\0"
    return b"\x89PNG\r\n\x1a\n\0\0\0\x0d" + chunk + zlib.crc32(chunk).to_bytes(4, "big")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes lines (values, or bytes as they are) to a dataset."""

    def write(*lines: object) -> Path:
        path = tmp_path / "dataset.jsonl"
        path.write_bytes(b"".join(line if isinstance(line, bytes) else encoded(line) for line in lines))
        return path

    return write


def kinds(report: VerifyReport) -> dict[str, int]:
    """Return everything that was found, by kind."""
    return report.problems.counts | report.warnings.counts


def test_a_good_dataset_has_nothing_wrong_and_is_counted(write: Callable[..., Path]) -> None:
    """Lines, bytes, roles, rewards, rollouts, models, tools and lengths are all told."""
    lines = [record(0), record(1, run_id="run-b", total_reward=5), record(2, total_reward=None)]
    path = write(*lines)
    report = inspect(path)
    lengths = sorted(len(encoded(line)) for line in lines)
    assert kinds(report) == {}
    assert (report.lines, report.bytes) == (3, path.stat().st_size)
    assert report.roles == {"system": 3, "user": 3, "assistant": 3}
    assert [(reward.low, reward.high, reward.records) for reward in report.rewards] == [(3, 3, 1), (5, 5, 1)]
    assert report.without_reward == 1
    assert report.rollouts == 2
    assert report.models == {"gpt-5-nano": 3}
    assert report.tools == {"act": 3}
    assert (report.lengths.min, report.lengths.median, report.lengths.max) == tuple(lengths)


def test_an_empty_dataset_is_fine(write: Callable[..., Path]) -> None:
    """No lines are no problem."""
    report = inspect(write())
    assert (report.lines, kinds(report), report.rewards) == (0, {}, [])


BAD_LINES: list[tuple[object, Kind]] = [
    (b'{"messages": "\xff"}\n', Kind.NOT_UTF8),
    (b"\n", Kind.NOT_JSON),
    (b'{"messages": [\n', Kind.NOT_JSON),
    (b'{"messages": NaN}\n', Kind.NOT_JSON),
    (b"[" * 100_000 + b"\n", Kind.TOO_DEEP),
    ([1, 2], Kind.NOT_OBJECT),
    (without(record(), "metadata"), Kind.BAD_KEYS),
    (without(record(), "messages"), Kind.BAD_KEYS),
    (record() | {"id": 1}, Kind.BAD_KEYS),
    (record() | {"metadata": []}, Kind.BAD_METADATA),
    (without(record(), "metadata", "shard"), Kind.BAD_METADATA),
    (record(total_reward="3"), Kind.BAD_METADATA),
    (record(total_reward=True), Kind.BAD_METADATA),
    (record(total_reward=10**400), Kind.BAD_METADATA),
    (record() | {"messages": {}}, Kind.BAD_MESSAGE),
    (record() | {"messages": []}, Kind.BAD_MESSAGE),
    (record() | {"messages": [1, record()["messages"][2]]}, Kind.BAD_MESSAGE),
    (with_message(role="robot", content=""), Kind.UNKNOWN_ROLE),
    (with_message(role=["user"], content=""), Kind.UNKNOWN_ROLE),
    (with_message(role="user", content=None), Kind.BAD_CONTENT),
    (with_message(role="assistant", content=None), Kind.BAD_CONTENT),
    (with_message(role="user", content=7), Kind.BAD_CONTENT),
    (with_message(role="user", content=["text"]), Kind.BAD_CONTENT),
    (with_message(role="user", content=[{"type": "text"}]), Kind.BAD_CONTENT),
    (with_message(role="assistant", content="", tool_calls={}), Kind.BAD_TOOL_CALL),
    (with_message(role="assistant", content="", tool_calls=[{"function": {}}]), Kind.BAD_TOOL_CALL),
    (
        with_message(role="assistant", content="", tool_calls=[{"function": {"name": "act", "arguments": {}}}]),
        Kind.BAD_TOOL_CALL,
    ),
    (without(record(), "messages", 2), Kind.NO_REPLY),
]


@pytest.mark.parametrize(("line", "kind"), BAD_LINES)
def test_a_bad_line_is_a_problem_of_its_kind(write: Callable[..., Path], line: object, kind: Kind) -> None:
    """Each is named once, with its place, and the good lines around it are not touched."""
    before = encoded(record(8))
    report = inspect(write(before, line, record(9)))
    assert report.problems.counts == {kind: 1}
    assert report.warnings.counts == {}
    (found,) = report.problems.first
    assert (found.kind, found.line, found.offset) == (kind, 2, len(before))
    assert report.lines == 3


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (
            with_message(
                role="assistant",
                content="",
                tool_calls=[{"function": {"name": "act", "arguments": "do it"}}],
            ),
            Kind.ARGUMENTS_NOT_JSON,
        ),
        (with_message(role="tool", content="done", tool_call_id="c9"), Kind.UNKNOWN_CALL_ID),
        (with_message(role="tool", content="done"), Kind.UNKNOWN_CALL_ID),
        (with_image("https://example.org/a.png") | {"metadata": record()["metadata"]}, Kind.IMAGE_FLAG),
        (with_image(data_url(png(), "image/jpeg")), Kind.IMAGE_TYPE),
        (json.dumps(record(model="a\u2028b"), ensure_ascii=False).encode() + b"\n", Kind.LINE_SEPARATOR),
    ],
)
def test_what_may_be_right_is_a_warning(write: Callable[..., Path], line: object, kind: Kind) -> None:
    """A warning alone leaves the dataset fine."""
    report = inspect(write(line))
    assert (report.problems.counts, report.warnings.counts) == ({}, {kind: 1})


def test_a_tool_message_may_answer_a_call_before_it(write: Callable[..., Path]) -> None:
    """The id is known from the message that called."""
    line = record()
    line["messages"] += [{"role": "tool", "content": "done", "tool_call_id": "c1"}]
    assert kinds(inspect(write(line))) == {}


def test_several_things_wrong_with_one_line_are_all_found(write: Callable[..., Path]) -> None:
    """The first problem does not hide the second."""
    line = without(with_message(role="robot", content=7), "metadata", "turn")
    assert set(kinds(inspect(write(line)))) == {Kind.UNKNOWN_ROLE, Kind.BAD_CONTENT, Kind.BAD_METADATA}


def test_only_the_first_findings_are_kept_but_all_are_counted(write: Callable[..., Path]) -> None:
    """A dataset full of problems does not fill the memory."""
    report = inspect(write(*[b"\n"] * 100))
    assert report.problems.counts == {Kind.NOT_JSON: 100}
    assert [found.line for found in report.problems.first] == list(range(1, FINDINGS_KEPT + 1))


@pytest.mark.parametrize(
    ("other", "by", "duplicate"),
    [
        (record(), DedupBy.CONVERSATION, True),
        (record(run_id="run-b"), DedupBy.CONVERSATION, True),
        (record(1), DedupBy.CONVERSATION, False),
        (without(record(), "messages", 2, "tool_calls"), DedupBy.CONVERSATION, False),
        (without(record(), "messages", 2, "tool_calls"), DedupBy.PROMPT, True),
        (record(run_id="run-b"), DedupBy.NONE, False),
        (record(), DedupBy.NONE, True),
    ],
)
def test_a_duplicate_is_what_the_daemon_would_call_one(
    write: Callable[..., Path], other: object, by: DedupBy, *, duplicate: bool
) -> None:
    """The keys are those of ``streamer.core.records.key``."""
    report = inspect(write(record(), other), by=by)
    assert report.problems.counts.get(Kind.DUPLICATE, 0) == duplicate


def test_a_duplicate_names_the_line_that_was_first(write: Callable[..., Path]) -> None:
    """So that one can look at both."""
    report = inspect(write(record(0), record(1), record(2), record(1)))
    (found,) = report.problems.first
    assert (found.line, found.detail) == (4, "the same as line 2, by conversation")


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "1"])
def test_a_real_image_is_decoded(write: Callable[..., Path], mode: str) -> None:
    """Whatever its colours are."""
    report = inspect(write(with_image(data_url(png(mode)))))
    assert kinds(report) == {}
    assert (report.images.records, report.images.decoded) == (1, 1)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_image", "image_url": data_url(png())},
        {"type": "image", "image": data_url(png())},
        {
            "type": "image",
            "source": {
                "type": "base64",
                "media_type": "image/png",
                "data": base64.b64encode(png()).decode(),
            },
        },
    ],
)
def test_an_image_part_of_another_api_is_decoded_too(write: Callable[..., Path], part: dict[str, Any]) -> None:
    """There are several shapes of image parts about."""
    line = with_message(role="user", content=[part])
    line["metadata"]["has_image"] = True
    report = inspect(write(line))
    assert (kinds(report), report.images.decoded) == ({}, 1)


@pytest.mark.parametrize(
    "url",
    [
        None,
        7,
        "",
        "file:///etc/passwd",
        "data:image/png,raw",
        "data:image/png;base64,====",
        "data:image/png;base64,ünicode",
        data_url(b""),
        data_url(b"GIF89a"),
        data_url(png()[:-30]),
        data_url(b"no image"),
        data_url(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "application/postscript"),
        pytest.param(data_url(png_header(10_000, 10_000)), id="bomb over the limit"),
        pytest.param(data_url(png_header(100_000, 100_000)), id="bomb over twice the limit"),
    ],
)
def test_a_broken_image_is_a_problem_and_no_crash(write: Callable[..., Path], url: object) -> None:
    """Not base64, cut off, no image at all, or one that would fill the memory."""
    report = inspect(write(with_image(url)))
    assert report.problems.counts == {Kind.BAD_IMAGE: 1}
    assert (report.images.broken, report.images.decoded) == (1, 0)
    assert report.problems.first[0].detail.startswith("messages[2].content[0]: ")


def test_a_remote_image_is_counted_and_never_fetched(write: Callable[..., Path]) -> None:
    """Its host does not even exist."""
    report = inspect(write(with_image("https://no-such-host.invalid/a.png")))
    assert (kinds(report), report.images.remote) == ({}, 1)


def test_images_can_be_left_alone(write: Callable[..., Path]) -> None:
    """Then they are only counted, broken or not."""
    report = inspect(write(with_image(data_url(b"no image"))), decode_images=False)
    assert (kinds(report), report.images.skipped) == ({}, 1)


def test_without_pillow_the_error_names_the_extra(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a dataset that has images to decode needs it."""
    line = with_image(data_url(png()))
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert inspect(write(record())).lines == 1
    path = write(line)
    with pytest.raises(MissingExtraError, match="install the extra `images`"):
        inspect(path)
    assert inspect(path, decode_images=False).images.skipped == 1


def test_an_unterminated_last_line_is_reported_with_what_it_may_be(write: Callable[..., Path]) -> None:
    """It is looked at for a while first."""
    waits: list[float] = []
    report = inspect(write(record(), b'{"messages": ['), sleep=waits.append)
    assert report.problems.counts == {Kind.UNTERMINATED: 1}
    assert "a running daemon may be in the middle of a write" in report.problems.first[0].detail
    assert len(waits) == 10


def test_a_line_that_is_ended_while_we_look_is_whole(write: Callable[..., Path]) -> None:
    """A running daemon is no problem."""
    whole = encoded(record(1))
    path = write(record(0), whole[:40])
    rest = [whole[40:90], whole[90:]]

    def sleep(_: float) -> None:
        with path.open("ab") as file:
            file.write(rest.pop(0))

    report = inspect(path, sleep=sleep)
    assert (kinds(report), report.lines, rest) == ({}, 2, [])


@pytest.mark.parametrize("instead", [b"", encoded(record(1))])
def test_a_torn_line_that_is_mended_while_we_look_is_no_problem(write: Callable[..., Path], instead: bytes) -> None:
    """A daemon that starts cuts it; then there is nothing, or another line."""
    path = write(record(0), b'{"mess')

    def mend(_: float) -> None:
        path.write_bytes(encoded(record(0)) + instead)

    report = inspect(path, sleep=mend)
    assert (kinds(report), report.lines) == ({}, 2 if instead else 1)


def test_what_is_appended_meanwhile_is_not_read(write: Callable[..., Path]) -> None:
    """The end is where it was at the start, however fast the daemon writes."""
    path = write(record(0), record(1, model="m" * (1 << 20)), record(2))

    def append(done: int, size: int) -> None:
        assert 1 << 20 <= done <= size
        with path.open("ab") as file:
            file.write(encoded(record(3)))

    assert inspect(path, progress=append).lines == 3


def test_a_line_that_is_too_long_is_passed_over(write: Callable[..., Path]) -> None:
    """It is a problem, and the lines after it are found."""
    report = inspect(write(record(0), record(1, model="m" * 5000), record(2)), longest_line=2000)
    assert report.problems.counts == {Kind.TOO_LONG: 1}
    assert (report.lines, report.lengths.max) == (3, len(encoded(record(1, model="m" * 5000))))


@pytest.mark.parametrize("more", [0, 1])
def test_a_line_of_just_the_greatest_length_is_read(write: Callable[..., Path], more: int) -> None:
    """The limit counts the newline."""
    line = encoded(record())
    report = inspect(write(line), longest_line=len(line) - more)
    assert kinds(report) == ({Kind.TOO_LONG: 1} if more else {})


def test_many_different_rewards_are_put_into_bins(write: Callable[..., Path]) -> None:
    """Ten of equal width, and every record is in one of them."""
    report = inspect(write(*[record(i, total_reward=i / 2) for i in range(101)]))
    assert [reward.records for reward in report.rewards] == [10] * 9 + [11]
    assert (report.rewards[0].low, report.rewards[-1].high) == (0, 50)


def test_rewards_as_far_apart_as_floats_go_are_put_into_bins(write: Callable[..., Path]) -> None:
    """Their difference is more than a float holds."""
    far = [-1.7e308, 1.7e308]
    report = inspect(write(*[record(i, total_reward=far[i] if i < 2 else i) for i in range(30)]))
    assert sum(reward.records for reward in report.rewards) == 30
    assert report.rewards[0].records == report.rewards[-1].records == 1


@pytest.mark.parametrize("place", ["missing.jsonl", "."])
def test_what_is_no_file_is_wrong_usage(tmp_path: Path, place: str) -> None:
    """A folder is none, and a missing one is not an empty dataset."""
    with pytest.raises(ConfigError) as refused:
        inspect(tmp_path / place)
    assert refused.value.exit_code == 2


json_values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5),
    st.just([None]),
    st.just({"a": []}),
)


def optional(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return objects of these keys, any of which may be missing or hold anything."""
    return st.fixed_dictionaries({}, optional={key: value | json_values for key, value in fields.items()})


calls = optional(id=st.sampled_from(["a", "b"]), function=optional(name=st.just("act"), arguments=st.just("{}")))
parts = optional(type=st.sampled_from(["text", "image_url", "image"]), text=st.text())
messages = optional(
    role=st.sampled_from(["system", "user", "assistant", "tool"]),
    content=st.text() | st.lists(parts, max_size=2),
    tool_calls=st.lists(calls, max_size=2),
    tool_call_id=st.sampled_from(["a", "b"]),
)
lines = optional(messages=st.lists(messages, max_size=3), metadata=optional(run_id=st.just("r")))


@given(lines)
def test_a_line_of_any_shape_is_checked_without_a_crash(line: dict[str, Any]) -> None:
    """Whatever stands where: what has no messages has a finding that says why."""
    checked = check_line(encoded(line))
    assert checked.messages or checked.findings


@given(st.binary(max_size=50))
def test_any_bytes_are_checked_without_a_crash(data: bytes) -> None:
    """A line need not be JSON, nor text."""
    assert check_line(data).findings


@given(st.lists(messages, min_size=1, max_size=3))
def test_what_the_daemon_takes_is_fine_but_for_parts_that_lack_their_text(
    conversation: list[dict[str, Any]],
) -> None:
    """The two judge a conversation alike: what is appended is not complained about afterwards."""
    try:
        taken = read(encoded({"messages": conversation}), "sft_a.jsonl")
    except MalformedError:
        return
    metadata = {**record()["metadata"], "has_image": taken.has_image}
    checked = check_line(msgspec.json.encode({"messages": taken.messages, "metadata": metadata}))
    problems = [finding for finding in checked.findings if not finding.kind.is_warning]
    assert all(finding.detail.endswith("is a text part without text") for finding in problems)


@given(st.lists(st.sampled_from("abcde"), max_size=60))
def test_a_tally_counts_as_a_dictionary_does(names: list[str]) -> None:
    """It is one that outgrows memory."""
    with Tally() as tally:
        for line, name in enumerate(names):
            tally.add("name", name)
            tally.add("other", name)
            assert tally.first_line(name.encode(), line) == names.index(name)
        assert tally.top("name", 10) == {name: names.count(name) for name in set(names)}
        assert (tally.distinct("name"), tally.total("name")) == (len(set(names)), len(names))


def run(*arguments: object) -> tuple[int, str]:
    """Run the command in a pipe; return its exit code and all that it printed."""
    result = CliRunner().invoke(APP, [str(argument) for argument in arguments])
    return result.exit_code, result.output


def test_the_command_ends_with_0_for_a_good_dataset(write: Callable[..., Path]) -> None:
    """The first line is the verdict."""
    path = write(record())
    code, output = run(path)
    assert code == 0
    assert output.splitlines()[0] == f"{path}: 1 lines, {path.stat().st_size} bytes: fine"


def test_the_command_ends_with_1_and_names_the_problems(write: Callable[..., Path]) -> None:
    """With line, byte and kind."""
    code, output = run(write(record(), record()))
    assert code == 1
    assert "1 problem\n" in output
    assert f"line 2  byte {len(encoded(record()))}  duplicate  the same as line 1" in output


def test_the_command_takes_the_mode_of_dedup(write: Callable[..., Path]) -> None:
    """As the daemon was told it."""
    path = write(record(), record(run_id="run-b"))
    assert run(path)[0] == 1
    assert run(path, "--by", "none")[0] == 0
    assert run(path, "--by", "luck")[0] == 2


def test_the_command_can_leave_images_alone(write: Callable[..., Path]) -> None:
    """As Pillow may be missing."""
    path = write(with_image(data_url(b"no image")))
    assert run(path)[0] == 1
    code, output = run(path, "--no-images")
    assert (code, "1 not decoded" in output) == (0, True)


def test_the_command_prints_json_for_programs(write: Callable[..., Path]) -> None:
    """All of the report, in ASCII."""
    path = write(record(model="\u202eevil\u009b31m"), b"\n")
    code, output = run(path, "--json")
    report = json.loads(output)
    assert code == 1
    assert output.isascii()
    assert (report["fine"], report["lines"], report["models"]) == (False, 2, {"\u202eevil\u009b31m": 1})
    assert report["problems"]["first"][0] == {
        "kind": "not_json",
        "file": path.name,
        "line": 2,
        "offset": len(encoded(record(model="\u202eevil\u009b31m"))),
        "detail": "an empty line",
    }


def test_the_command_finds_the_configured_dataset(write: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """DATASET can be left out."""
    monkeypatch.setenv("STREAMER_DATASET", str(write(record())))
    assert run()[0] == 0


HOSTILE = "\x1b[2J\u202e[bold]x[/bold]\r\n\u009b0m"
ESCAPED = r"\x1b[2J\u202e[bold]x[/bold]\r\n\x9b0m"


def hostile_lines() -> Iterator[dict[str, Any]]:
    """Yield lines that would steer a terminal, wherever text of a line is shown."""
    yield record(model=HOSTILE)
    yield with_message(role=HOSTILE, content="")
    yield with_message(role="assistant", content="", tool_calls=[{"function": {"name": HOSTILE}}])
    yield with_image(HOSTILE)
    yield record() | {HOSTILE: 1}


@pytest.mark.parametrize("line", list(hostile_lines()))
def test_text_of_the_dataset_cannot_steer_a_terminal(write: Callable[..., Path], line: dict[str, Any]) -> None:
    """Control characters and overrides of direction are escaped."""
    output = run(write(line))[1]
    assert not set("\x1b\r\u009b\u202e") & set(output)


def in_terminal(arguments: list[str]) -> str:
    """Run the command on a terminal of 100 columns and return all that appears there."""
    ours, theirs = pty.openpty()
    code = "import typer, streamer.commands.verify.cli as v; typer.run(v.verify)"
    home = Path(streamer.__file__).parents[1]
    environ = os.environ | {"PYTHONPATH": str(home), "COLUMNS": "100", "TERM": "xterm"}
    command = [sys.executable, "-c", code, *arguments]
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environ):
        os.close(theirs)
        shown = b""
        while block := _read_terminal(ours):
            shown += block
    os.close(ours)
    return shown.decode()


def _read_terminal(fd: int) -> bytes:
    try:
        return os.read(fd, 1 << 16)
    except OSError:  # Linux says so at the end of a terminal
        return b""


def test_on_a_terminal_there_are_tables_and_markup_of_the_dataset_is_text(
    write: Callable[..., Path],
) -> None:
    """A model that is called ``[bold]x[/bold]`` is shown as such."""
    long = with_message(role="user", content="x" * (1 << 20))  # long enough for the bar to move
    shown = in_terminal([str(write(record(model=HOSTILE), long, b"\n"))])
    assert ESCAPED in shown
    assert "─" in shown
    assert "an empty line" in shown
    assert "\u202e" not in shown
