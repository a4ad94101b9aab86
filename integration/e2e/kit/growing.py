"""Files that grow."""

from __future__ import annotations

from pathlib import Path


class Growing:
    """A file that grows by lines."""

    def __init__(self, path: Path):
        self.path = path
        self.read = 0

    def more(self) -> list[str]:
        """The whole lines that have come since the last time."""
        with self.path.open("rb") as file:
            file.seek(self.read)
            fresh = file.read()
        whole = fresh[:fresh.rfind(b"\n") + 1]
        self.read += len(whole)
        return whole.decode(errors="replace").splitlines()
