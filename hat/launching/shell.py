"""What every launch says to a shell: the training command, its environment, its quoting."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence

from hat.errors import UserError
from hat.launching.description import Launch

# hat train ends with 0 when SIGTERM made it save and stop, too: only its result says that the run
# is over. A scheduler that reads statuses alone is told what a shell says of SIGTERM, 128 + 15.
DRAINED_STATUS = 143
RESULT = "result.json"  # hat train writes it into the run's folder at the very end

MOUNT = "/gcs"  # buckets appear on every host as /gcs/BUCKET

# Hosts of a new slice install, and pods fetch their image, minutes apart; hat train waits 300 s.
PATIENCE = {"HAT_CONNECT_SECONDS": "1800"}


def train_words(launch: Launch, folder: str, processes: int, devices: int) -> list[str]:
    """The words of `hat train ...` for one process of `processes`, with `devices` in all."""
    sets = ["--set", *launch.sets] if launch.sets else []
    return [
        "hat", "train", launch.config, "--out", folder, *sets,
        "--expect-processes", str(processes), "--expect-devices", str(devices),
    ]  # fmt: skip


def environment(launch: Launch, *defaults: Mapping[str, str]) -> dict[str, str]:
    """`defaults`, the later the stronger, under what the description sets."""
    merged: dict[str, str] = {}
    for variables in defaults:
        merged |= variables
    return merged | dict(text.split("=", 1) for text in launch.environment)


def compile_cache(out: str) -> dict[str, str]:
    """XLA's compilations are kept beside the runs, so that a restart finds those of all hosts."""
    return {"JAX_COMPILATION_CACHE_DIR": f"{out.rstrip('/')}/xla-cache"}


def exports(variables: Mapping[str, str]) -> str:
    """One `export NAME='value'` a line."""
    return "".join(f"export {name}={shlex.quote(value)}\n" for name, value in variables.items())


def command(words: Sequence[str], indent: str = "") -> str:
    """The quoted words, an option a line, joined by backslashes; no newline at the end."""
    lines: list[str] = []
    for word in words:
        quoted = shlex.quote(word)
        if word.startswith("--") or not lines:
            lines.append(quoted)
        else:
            lines[-1] += f" {quoted}"
    return f" \\\n{indent}  ".join(lines)


def bucket_of(launch: Launch, target: str) -> str:
    """The bucket of OUT. UserError: OUT is a path, which hosts of `target` do not share."""
    if not launch.out.startswith("gs://"):
        raise UserError(
            f"out={launch.out!r}: the hosts of {target} share no folder; set out to "
            "gs://BUCKET/FOLDER"
        )
    return launch.out.removeprefix("gs://").partition("/")[0]


def mounted(address: str) -> str:
    """Where gs://BUCKET/FOLDER appears on a host: /gcs/BUCKET/FOLDER."""
    return f"{MOUNT}/{address.removeprefix('gs://')}"
