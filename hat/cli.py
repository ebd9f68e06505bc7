"""The command line: `hat COMMAND ...`.

A command is a module with `add_arguments(parser)` and `run(arguments) -> dict`, the dict being
what `--json` prints. Only the module of the command that runs is imported, and a command module
imports what is heavy inside `run`, so that `hat --help` answers at once.

Standard output carries results, standard error everything else. With `--json` the last line of
standard output is one JSON object and there is no other. Exit status: 0, 2 after a mistake of the
user (one line on standard error), 75 where the machine failed and the same command may succeed,
130 after an interrupt; a traceback is a bug of ours.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import difflib
import errno
import importlib
import json
import math
import os
import pkgutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import hat
from hat.errors import UserError


class Command(NamedTuple):
    module: str
    help: str


# Where a name has two words, the first is a group. The modules of FOUND join as "bench NAME" and
# "reproduce NAME".
COMMANDS = {
    "prepare": Command("hat.commands.prepare", "turn text into packed rows on disk"),
    "train": Command("hat.commands.train", "train the experiment of a config file, or resume it"),
    "launch": Command("hat.commands.launch", "start a run on this machine, TPUs, GKE or SLURM"),
    "generate": Command("hat.commands.generate", "continue prompts with a trained model"),
    "serve": Command("hat.commands.serve", "serve a trained model by the OpenAI interface"),
    "score": Command("hat.commands.score", "show where a trained model is surprised by files"),
    "evaluate bits-per-byte": Command("hat.commands.evaluate", "score files with a trained model"),
    "plan": Command("hat.commands.plan", "predict memory and speed on a pod that is not there"),
    "convert": Command("hat.commands.convert", "read and write checkpoints of other formats"),
    "evaluate fairness": Command(
        "hat.commands.fairness", "compare splitters and tokenizers over parallel text"
    ),
    "evaluate robustness": Command(
        "hat.commands.robustness", "compare models under noise in their contexts"
    ),
    "evaluate report": Command("hat.commands.report", "write a report from stored results"),
    "evaluate harness": Command(
        "hat.commands.harness", "run lm-evaluation-harness tasks on a trained model"
    ),
    "byte-exact score": Command(
        "hat.commands.byte_exact_score", "score a text byte by byte under a tokenized model"
    ),
    "byte-exact generate": Command(
        "hat.commands.byte_exact_generate", "continue a prompt that may end inside a token"
    ),
    "byte-exact ensemble": Command(
        "hat.commands.byte_exact_ensemble", "several models, any vocabularies, as one"
    ),
    "byte-exact store": Command(
        "hat.commands.byte_exact_store", "store a teacher's distributions for training to read"
    ),
    "compress": Command("hat.commands.compress", "compress a file with a trained byte model"),
    "decompress": Command("hat.commands.decompress", "turn a compressed file back"),
    "equal-info train-m1": Command(
        "hat.commands.equal_info_train_m1", "train the small byte model that makes windows"
    ),
    "equal-info build": Command(
        "hat.commands.equal_info_build", "make the static table of windows of a byte model"
    ),
    "equal-info encode": Command(
        "hat.commands.equal_info_encode", "turn a file into the tokens of a table"
    ),
    "equal-info decode": Command("hat.commands.equal_info_decode", "turn tokens into the file"),
    "equal-info stats": Command(
        "hat.commands.equal_info_stats", "compare a table with BPE and SentencePiece"
    ),
    "equal-info analyse": Command(
        "hat.commands.equal_info_analyse", "show information, stability and randomness of windows"
    ),
    "dynamic apply": Command(
        "hat.commands.dynamic_apply", "merge a model's tokens further in the texts that it reads"
    ),
    "dynamic generate": Command(
        "hat.commands.dynamic_generate", "generate with a very large vocabulary"
    ),
    "perturb": Command("hat.commands.perturb", "show what a perturbation does to a text"),
    "patches": Command(
        "hat.commands.patches", "make a splitter of a byte model: words end where it is unsure"
    ),
    "params": Command("hat.commands.params", "count the parameters of a config, part by part"),
}
GROUPS = {
    "evaluate": "measure models, splitters and tokenizers",
    "byte-exact": "bytes from models of tokens",
    "equal-info": "compress text into windows of equal information, and learn from them",
    "dynamic": "merge the tokens of subword models as they read",
    "bench": "run a benchmark",
    "reproduce": "run an experiment from beginning to end",
}
FOUND = {"bench": "benchmarks", "reproduce": "reproduce"}  # groups by packages of `hat`

# What the operating system refuses is for the user to mend: one line, no traceback.
_REFUSALS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit status. `argv` defaults to the process's arguments."""
    argv = list(sys.argv[1:] if argv is None else argv)
    try:
        status = _main(argv)
        sys.stdout.flush()  # here, so that a closed pipe is met inside this try
        return status
    except UserError as error:
        return _complain("; ".join(str(error).splitlines()))
    except BrokenPipeError:
        # The reader has gone (`hat params ... | head`). Python would complain at exit otherwise.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13  # as if SIGPIPE had ended it
    except OSError as error:
        if error.errno not in _REFUSALS:
            raise
        where = error.filename or "while writing"
        return _complain(f"{error.strerror}: {where}; make room or give access, then repeat")
    except KeyboardInterrupt:
        print("hat: interrupted", file=sys.stderr)
        return 130


def _complain(message: str) -> int:
    print(f"hat: error: {message}", file=sys.stderr)
    return 2


def _main(argv: list[str]) -> int:
    if not argv or argv[0] in ("-h", "--help"):
        print(_overview("hat", {**COMMANDS, **_modules("bench"), **_modules("reproduce")}))
        return 0
    if argv[0] == "--version":
        print(f"hat {hat.__version__}")
        return 0
    commands = {**COMMANDS, **(_modules(argv[0]) if argv[0] in FOUND else {})}
    if argv[0] in GROUPS and (len(argv) == 1 or argv[1] in ("-h", "--help")):
        print(_overview(f"hat {argv[0]}", commands, group=argv[0]))
        return 0
    name = _resolve(argv, commands)
    _prepare_environment()
    module = importlib.import_module(commands[name].module)
    parser = _Parser(prog=f"hat {name}", description=module.__doc__, allow_abbrev=False,
                     formatter_class=argparse.RawDescriptionHelpFormatter)
    module.add_arguments(parser)
    parser.add_argument("--json", action="store_true",
                        help="print one JSON object on standard output, all else on standard error")
    arguments = parser.parse_args(argv[len(name.split()):])
    if not arguments.json:
        module.run(arguments)
        return 0
    with _stdout_to_stderr():
        result = module.run(arguments)
    print(json.dumps(plain(result), allow_nan=False))
    return 0


@contextlib.contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Also what native libraries print, such as gloo where it connects two processes."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        with contextlib.redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def _resolve(argv: list[str], commands: dict[str, Command]) -> str:
    """The name of the command that `argv` begins with, of one word or two."""
    first, second = argv[0], argv[1] if len(argv) > 1 else ""
    if first in GROUPS:
        members = [name.split()[1] for name in commands if name.startswith(f"{first} ")]
        if second not in members:
            raise UserError(_no_command(f"hat {first}", second, members))
        return f"{first} {second}"
    names = [*dict.fromkeys(name.split()[0] for name in commands), *FOUND]
    if first not in names:
        raise UserError(_no_command("hat", first, names))
    return first


def _no_command(prog: str, word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(known)}"
    return f"{prog} has no command {word}; {hint} ({prog} --help lists them)"


def _overview(prog: str, commands: dict[str, Command], group: str | None = None) -> str:
    lines = [hat.__doc__ if group is None else f"hat {group}: {GROUPS[group]}", ""]
    lines += [f"usage: {prog} COMMAND ...    ({prog} COMMAND --help says more)", ""]
    shown = {n: c for n, c in commands.items() if group is None or n.startswith(f"{group} ")}
    width = max(map(len, shown), default=0)
    lines += [f"  {name:<{width}}  {command.help}" for name, command in shown.items()]
    return "\n".join(lines)


def _modules(group: str) -> dict[str, Command]:
    """The modules of a package of FOUND that define `run`, as commands: found and described without
    importing them."""
    found, package = {}, FOUND[group]
    for info in pkgutil.iter_modules([str(Path(hat.__file__).parent / package)]):
        source = Path(info.module_finder.path, f"{info.name}.py").read_text(encoding="utf-8")
        tree = ast.parse(source)
        if any(isinstance(node, ast.FunctionDef) and node.name == "run" for node in tree.body):
            summary = (ast.get_docstring(tree) or "").partition("\n")[0]
            name = f"{group} {info.name.replace('_', '-')}"
            found[name] = Command(f"hat.{package}.{info.name}", summary)
    return found


def _prepare_environment() -> None:
    """Defaults that must stand before JAX is imported; the user's own settings win."""
    cache = Path(os.environ.get("HAT_CACHE") or Path.home() / ".cache" / "hat")
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache / "xla"))
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's chatter: errors only
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")


def plain(value: Any) -> Any:
    """`value` as strict JSON: NumPy scalars and arrays and paths become plain values; NaN and
    infinities, which JSON cannot write, become null."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


class _Parser(argparse.ArgumentParser):
    """argparse, with its complaints as one line and a suggestion for a mistyped option."""

    def error(self, message: str) -> NoReturn:
        raise UserError(f"{self.prog}: {message}; {self.prog} --help shows the usage")

    def parse_args(self, args=None, namespace=None):
        arguments, unknown = self.parse_known_args(args, namespace)
        if unknown:
            word = unknown[0].partition("=")[0]
            near = difflib.get_close_matches(word, self._option_string_actions, n=1, cutoff=0.5)
            hint = f", did you mean {near[0]}?" if near and word.startswith("-") else ""
            self.error(f"unknown argument {unknown[0]}{hint}")
        return arguments


if __name__ == "__main__":
    sys.exit(main())
