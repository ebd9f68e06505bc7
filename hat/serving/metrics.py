"""What the server counts, in the text format of Prometheus."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from hat.serving.worker import Worker


class Metrics:
    """Counts since the start."""

    def __init__(self):
        self.requests: Counter[int] = Counter()  # by HTTP status; 499: the client went away
        self.prompt_tokens = self.generated_tokens = 0
        self.seconds = self.first_seconds = 0.0
        self.completed = 0

    def text(self, worker: Worker) -> str:
        """The metrics, ended by a newline."""
        engine = worker.engine
        waiting = len(engine.waiting)
        lines = []

        def add(name: str, kind: str, help: str, values: dict[str, float]) -> None:
            lines.append(f"# HELP hat_{name} {help}")
            lines.append(f"# TYPE hat_{name} {kind}")
            lines.extend(f"hat_{name}{labels} {value}" for labels, value in values.items())

        add("requests_total", "counter", "Requests by HTTP status; 499 where the client left.",
            {f'{{status="{status}"}}': n for status, n in sorted(self.requests.items())})
        add("prompt_tokens_total", "counter", "Tokens read (bytes of a HAT).",
            {"": self.prompt_tokens})
        add("generated_tokens_total", "counter", "Tokens written (bytes of a HAT).",
            {"": self.generated_tokens})
        add("request_seconds", "summary", "From a request to its last byte.",
            {"_sum": self.seconds, "_count": self.completed})
        add("first_byte_seconds", "summary", "From a request to its first byte.",
            {"_sum": self.first_seconds, "_count": self.completed})
        add("continuations_running", "gauge", "Continuations that have a row.",
            {"": len(worker.tickets) - waiting})
        add("continuations_waiting", "gauge", "Continuations in the queue.", {"": waiting})
        add("prefixes", "gauge", "Rows kept for prompts that begin alike.",
            {"": len(engine.prefixes)})
        add("memory_bytes", "gauge", "Resident memory of the process.", {"": resident_bytes()})
        return "\n".join(lines) + "\n"


def resident_bytes() -> int:
    """Resident memory of this process; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
