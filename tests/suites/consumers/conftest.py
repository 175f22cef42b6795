"""What all of these tests need: libraries of the Hub that stay offline and write to a folder of their own."""

from __future__ import annotations

import os
import tempfile

# Before any of them is imported: they read it then.
_CACHE = tempfile.TemporaryDirectory(prefix="streamer-hub-")
os.environ |= {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HOME": _CACHE.name,
    "HF_DATASETS_CACHE": f"{_CACHE.name}/datasets",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
