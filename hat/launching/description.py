"""One description of a run, for every place that it may be started in.

It is a TOML file, or a Python file whose `config()` returns a `Launch`:

    name = "hat-7b"
    config = "configs/tfree_hat_7b.py"
    out = "gs://my-bucket/runs"

    [tpu]
    topology = "v5p:8x8x8"

    [tpu_vm]
    project = "my-project"
    ...

The name is the identity of the run: its folder is OUT/NAME, and jobs, slices and services carry
it, so that launching the same description again goes on with the same run. Every string is
checked here, so that the renderers may put a name where a shell or a service reads it; free text
(values of `sets` and `environment`, paths) is quoted where it is used.
"""

from __future__ import annotations

import dataclasses
import re
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, Literal

from hat import config as configs
from hat.errors import UserError
from hat.launching.topologies import Slice, parse_slice

MAX_NAME = 40  # pods are called NAME-workers-0-12345-xxxxx, and a host name has 63 letters

# What a launcher tells `hat train`; a description must not contradict it.
CONTRACT = ("HAT_COORDINATOR", "HAT_NUM_PROCESSES", "HAT_PROCESS_ID", "HAT_DISTRIBUTED")


def _require(condition: object, message: str) -> None:
    if not condition:
        raise UserError(message)


def _require_match(config: Any, pattern: str, words: str, *names: str) -> None:
    """Every named field that is set matches `pattern` as a whole; `words` say what that means."""
    for name in names:
        value = getattr(config, name)
        _require(
            value is None or re.fullmatch(pattern, value), f"{name}={value!r}: it must be {words}"
        )


def _require_label(config: Any, *names: str) -> None:
    """Names that clouds and clusters take, and that no shell reads as anything else."""
    _require_match(
        config, r"[A-Za-z0-9]([A-Za-z0-9._@-]*[A-Za-z0-9])?", "letters, digits, . _ @ or -", *names
    )


def _require_positive(config: Any, *names: str) -> None:
    for name in names:
        _require(
            getattr(config, name) > 0, f"{name}={getattr(config, name)}: it must be at least 1"
        )


@dataclasses.dataclass(frozen=True)
class Tpu:
    """A TPU pod. topology: one slice, such as "v5p:8x8x8". slices: how many of them."""

    topology: str
    slices: int = 1

    def __post_init__(self) -> None:
        parse_slice(self.topology)
        _require_positive(self, "slices")

    @property
    def slice(self) -> Slice:
        return parse_slice(self.topology)

    @property
    def processes(self) -> int:
        return self.slice.hosts * self.slices

    @property
    def devices(self) -> int:
        return self.slice.chips * self.slices


@dataclasses.dataclass(frozen=True)
class Gpu:
    """Nodes with NVIDIA GPUs. model: which; only GKE asks. per_node: GPUs of a node. process_per:
    one process of JAX for each "node", which is simpler, or for each "gpu", which spreads the work
    of the host."""

    nodes: int
    model: Literal["a100", "a100-80gb", "h100", "h100-mega", "h200", "b200"] = "h100"
    per_node: int = 8
    process_per: Literal["node", "gpu"] = "node"

    def __post_init__(self) -> None:
        _require_positive(self, "nodes", "per_node")

    @property
    def processes(self) -> int:
        return self.nodes * (self.per_node if self.process_per == "gpu" else 1)

    @property
    def devices(self) -> int:
        return self.nodes * self.per_node


@dataclasses.dataclass(frozen=True)
class Local:
    """Processes on this machine. devices_per_process: virtual CPU devices, or GPUs of its own.
    grace_seconds: how long a process that was told to stop may take to save."""

    processes: int = 1
    devices_per_process: int = 1
    platform: Literal["cpu", "cuda"] = "cpu"
    grace_seconds: int = 60

    def __post_init__(self) -> None:
        _require_positive(self, "processes", "devices_per_process", "grace_seconds")

    @property
    def devices(self) -> int:
        return self.processes * self.devices_per_process


@dataclasses.dataclass(frozen=True)
class TpuVm:
    """TPU VMs by queued resources. repository, ref: what every host checks out; a commit or a tag,
    so that a slice that is made again runs the same code. runtime_version: None takes the one of
    the generation. service_account: None takes the project's default."""

    project: str
    zone: str
    repository: str
    ref: str
    capacity: Literal["spot", "reserved", "on-demand"] = "spot"
    runtime_version: str | None = None
    service_account: str | None = None

    def __post_init__(self) -> None:
        _require_label(self, "project", "zone", "runtime_version", "service_account")
        _require_match(
            self, r"(https|ssh)://[^\s\x00-\x1f\x7f]+", "an https:// or ssh:// address",
            "repository",
        )  # fmt: skip
        _require_match(
            self, r"[A-Za-z0-9_][A-Za-z0-9._/-]*", "a commit, a tag or a branch", "ref"
        )


@dataclasses.dataclass(frozen=True)
class Gke:
    """A GKE cluster that has the JobSet controller. image: holds hat and its configs. queue: the
    Kueue LocalQueue, if the cluster has one. spot: run on Spot nodes."""

    project: str
    zone: str
    cluster: str
    image: str
    namespace: str = "default"
    service_account: str = "default"
    queue: str | None = None
    spot: bool = False

    def __post_init__(self) -> None:
        _require_label(
            self, "project", "zone", "cluster", "namespace", "service_account", "queue"
        )
        _require_match(
            self, r"[A-Za-z0-9][A-Za-z0-9._/:@-]*", "an image such as registry.example/hat:1",
            "image",
        )  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Slurm:
    """A SLURM cluster. folder: a checkout of hat with its .venv, on storage that every node sees.
    time: the limit of one job, as sbatch takes it; a run that needs longer is requeued."""

    folder: str
    time: str = "24:00:00"
    partition: str | None = None
    account: str | None = None

    def __post_init__(self) -> None:
        _require_match(self, r"/[A-Za-z0-9._/-]*", "an absolute path without spaces", "folder")
        _require_match(
            self, r"(\d+-)?\d+(:\d\d){0,2}", "minutes, H:MM:SS or D-HH:MM:SS", "time"
        )
        _require_label(self, "partition", "account")


@dataclasses.dataclass(frozen=True)
class Launch:
    """A run, the hardware that it needs, and the places where it may be launched.

    config, sets: what `hat train CONFIG --set ...` takes; the path is relative to the repository.
    out: where runs are kept, a folder or gs://BUCKET/FOLDER; this run's folder is OUT/NAME.
    environment: NAME=value, for every process.
    restarts: how often a run that fails starts again before the launcher gives up.
    """

    name: str
    config: str
    out: str
    sets: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    restarts: int = 10
    tpu: Tpu | None = None
    gpu: Gpu | None = None
    local: Local = Local()
    tpu_vm: TpuVm | None = None
    gke: Gke | None = None
    slurm: Slurm | None = None

    def __post_init__(self) -> None:
        _require(
            re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", self.name) and len(self.name) <= MAX_NAME,
            f"name={self.name!r}: use at most {MAX_NAME} lower-case letters, digits and -, "
            "beginning with a letter and not ending in -",
        )
        for name in ("config", "sets", "environment"):
            value = getattr(self, name)
            for text in (value,) if isinstance(value, str) else value:
                _require(
                    text and text.isprintable() and not text.startswith("-"),
                    f"{name}: {text!r} is empty, begins with - or has a control character",
                )
        _require_match(
            self, r"gs://[a-z0-9][a-z0-9._-]*(/[A-Za-z0-9._/-]*)?|[A-Za-z0-9._/][A-Za-z0-9._/-]*",
            "a folder or gs://BUCKET/FOLDER, of letters, digits, . _ - and /", "out",
        )  # fmt: skip
        for text in self.sets:
            _require("=" in text, f"sets: {text!r}: write it as field=value")
        for text in self.environment:
            name, equals, _ = text.partition("=")
            _require(
                equals and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name),
                f"environment: {text!r}: write it as NAME=value",
            )
            _require(name not in CONTRACT, f"environment: {name} is set by the launcher; remove it")
        _require(self.restarts >= 0, f"restarts={self.restarts}: it must be 0 or more")
        _require(
            self.tpu is None or self.gpu is None, "tpu and gpu are both given; keep one of them"
        )

    @property
    def folder(self) -> str:
        """OUT/NAME, the folder of this run."""
        return f"{self.out.rstrip('/')}/{self.name}"

    def section(self, name: str, target: str) -> Any:
        """The section `name`. UserError: the description has none, and `target` needs it."""
        section = getattr(self, name)
        if section is None:
            cls = next(a for a in typing.get_args(typing.get_type_hints(Launch)[name])
                       if dataclasses.is_dataclass(a))
            needed = [f.name for f in dataclasses.fields(cls) if f.default is dataclasses.MISSING]
            raise UserError(
                f"the run description has no [{name}], which hat launch {target} needs; "
                f"add it with {', '.join(needed)}"
            )
        return section


CLASSES = (Launch, Tpu, Gpu, Local, TpuVm, Gke, Slurm)


def read(path: Path, assignments: tuple[str, ...] = ()) -> Launch:
    """The description in a TOML or Python file, with `--set` assignments applied.

    UserError, naming the file: it cannot be read, a field is unknown, missing or of another type,
    a value that cannot be.
    """
    if path.suffix == ".toml":
        launch = _read_toml(path)
    elif path.suffix == ".py":
        launch = configs.load(path)
    else:
        raise UserError(f"{path}: a run description is a .toml or a .py file")
    if not isinstance(launch, Launch):
        raise UserError(
            f"{path}: config() returned {type(launch).__name__}; return a "
            "hat.launching.description.Launch (hat train takes experiments)"
        )
    return configs.override(launch, assignments)


def _read_toml(path: Path) -> Launch:
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"cannot read the run description {path}: {error.strerror}; launch/example.toml is one"
        ) from None
    except ValueError as error:  # of TOML, or of UTF-8
        raise UserError(f"{path}: {error}") from None
    try:
        return configs.from_dict(_tagged(data, Launch), CLASSES)
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix('stored config: ')}") from None


def _tagged(data: Any, annotation: Any) -> Any:
    """Tables of TOML as `hat.config.from_dict` takes them: each with the class that it is."""
    members = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else ()
    cls = next(filter(dataclasses.is_dataclass, (annotation, *members)), None)
    if cls is None or not isinstance(data, dict):
        return data
    hints = typing.get_type_hints(cls)
    fields = {name: _tagged(value, hints.get(name)) for name, value in data.items()}
    if configs.KIND in fields:
        raise UserError(f"the table of a {cls.__name__} has no field {configs.KIND}")
    return {configs.KIND: cls.__name__, **fields}
