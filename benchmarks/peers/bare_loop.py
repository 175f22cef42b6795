"""The least that Python can do: one loop, a set of digests, no memory of yesterday. SHARDS DATABASE OUTPUT."""

import os
import sqlite3
import sys

import msgspec
import xxhash


class _Metadata(msgspec.Struct, frozen=True, gc=False):
    run_id: str = ""


class Line(msgspec.Struct, gc=False):
    """What is looked at of a line, in either layout; a conversation stays the bytes that it is."""

    run_id: str = ""
    dialogue: msgspec.Raw = msgspec.Raw()
    assistant: msgspec.Raw = msgspec.Raw()
    messages: msgspec.Raw = msgspec.Raw()
    metadata: _Metadata = _Metadata()

    def session(self) -> str:
        """Return the session that the outcome is joined by."""
        return self.run_id or self.metadata.run_id

    def key(self) -> bytes:
        """Return the digest of the conversation's bytes."""
        return xxhash.xxh3_128(b"%b%b%b" % (self.dialogue, self.assistant, self.messages)).digest()


parse = msgspec.json.Decoder(Line).decode


def main(shards: str, database: str, output: str) -> None:
    """Copy the lines of qualifying rollouts to ``output``, each conversation once."""
    rows = sqlite3.connect(f"file:{database}?mode=ro", uri=True).execute(
        "SELECT session_id FROM outcome_rewards WHERE total_reward > 0"
    )
    good = {session for (session,) in rows}
    seen: set[bytes] = set()
    with open(output, "wb") as out:
        for name in sorted(os.listdir(shards)):
            with open(os.path.join(shards, name), "rb") as shard:
                for text in shard:
                    line = parse(text)
                    if line.session() in good and (key := line.key()) not in seen:
                        seen.add(key)
                        out.write(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
