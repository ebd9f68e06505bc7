"""A load on `hat serve`: streaming clients at once, every text checked, memory watched.

Starts the server in a process of its own on a free port of 127.0.0.1, with random weights or a run
of yours, and so many clients beside it, each asking for one text after the other. Every text that
comes is compared with what the engine gives for the same prompt and seed by itself. At the end the
server is stopped by SIGTERM in the middle of streams, which must come to their ends.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hat.benchmarks.generate import SIZES
from hat.commands.arguments import positive_int
from hat.errors import UserError

PROMPTS = ("def ", "naïve 世界", "The end", "", "1,234.5 ", "a\nb\nc\n", "x" * 70, "words " * 40)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", metavar="RUN", type=Path, help="a run to serve (default: random)")
    parser.add_argument("--size", choices=SIZES, default="25m",
                        help="of the random model (default: 25m)")
    parser.add_argument("--clients", metavar="N", type=positive_int, default=64,
                        help="(default: 64)")
    parser.add_argument("--rows", metavar="N", type=positive_int, default=64,
                        help="of the server (default: 64)")
    parser.add_argument("--seconds", metavar="S", type=float, default=60.0, help="(default: 60)")
    parser.add_argument("--bytes", metavar="N", type=positive_int, default=48,
                        help="of the shortest text; the longest has eight times as many (default: 48)")


@dataclasses.dataclass
class Tally:
    """What the clients saw. first, whole: seconds to the first bytes, and to the last; memory:
    (seconds since the start, resident bytes of the server)."""

    texts: int = 0
    bytes: int = 0
    wrong: int = 0
    errors: list[str] = dataclasses.field(default_factory=list)
    first: list[float] = dataclasses.field(default_factory=list)
    whole: list[float] = dataclasses.field(default_factory=list)
    memory: list[tuple[float, int]] = dataclasses.field(default_factory=list)


def run(arguments: argparse.Namespace) -> dict:
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.run or write_random_run(Path(scratch), arguments.size)
        jobs = make_jobs(arguments.bytes)
        expected = expected_texts(folder, jobs, arguments.rows)
        command = [sys.executable, "-m", "hat", "serve", str(folder), "--port", "0",
                   "--rows", str(arguments.rows), "--queue", str(4 * arguments.clients),
                   "--name", "served"]  # fmt: skip
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            try:
                port = wait_for_port(server)
                tally = asyncio.run(load(server, port, jobs, expected, arguments))
                status = server.wait(60)
            finally:
                server.kill()
    return report(tally, status, arguments)


def make_jobs(num_bytes: int) -> list[dict]:
    """Bodies of requests: every prompt with four seeds, of different lengths."""
    return [
        {"model": "served", "prompt": prompt, "seed": seed, "max_tokens": num_bytes * (1 + number),
         "temperature": 1.0, "stream": True}
        for number, prompt in enumerate(PROMPTS) for seed in range(4)
    ]  # fmt: skip


def expected_texts(folder: Path, jobs: list[dict], rows: int) -> list[str]:
    """What the engine gives for every job, in this process."""
    from hat.inference.engine import Engine
    from hat.inference.requests import Request
    from hat.inference.generation import read_ids
    from hat.inference.run import load_run
    from hat.inference.sampling import Sampling

    loaded = load_run(folder)
    engine = Engine(loaded.model, loaded.params, loaded.rule, max_rows=rows)
    made = [
        engine.submit(Request(
            read_ids(engine.tokenizer, job["prompt"].encode()), job["max_tokens"],
            Sampling(job["temperature"], seed=job["seed"]),
        ))
        for job in jobs
    ]  # fmt: skip
    engine.run()
    return [bytes(one.text).decode("utf-8", "replace") for one in made]


async def load(server, port: int, jobs, expected, arguments: argparse.Namespace) -> Tally:
    tally, began = Tally(), time.monotonic()
    end = began + arguments.seconds
    clients = [
        asyncio.create_task(client(number, port, jobs, expected, end, tally))
        for number in range(arguments.clients)
    ]
    while (now := time.monotonic()) < end:
        tally.memory.append((now - began, memory_of(server.pid)))
        await asyncio.sleep(min(0.5, max(end - now, 0)))
    server.send_signal(signal.SIGTERM)  # in the middle of streams: they come to their ends
    await asyncio.gather(*clients)
    return tally


async def client(number: int, port: int, jobs, expected, end: float, tally: Tally) -> None:
    """One text after the other until the time is over."""
    turn = number
    while time.monotonic() < end:
        index = turn % len(jobs)
        turn += 1 + number % 5
        began = time.monotonic()
        try:
            text, first = await stream(port, jobs[index])
        except (OSError, ValueError, KeyError, asyncio.IncompleteReadError) as error:
            if time.monotonic() < end:  # a server that stops takes no new connections
                tally.errors.append(f"{type(error).__name__}: {error}")
            continue
        tally.texts += 1
        tally.bytes += len(text.encode())
        tally.wrong += text != expected[index]
        tally.first.append(first - began)
        tally.whole.append(time.monotonic() - began)


async def stream(port: int, job: dict) -> tuple[str, float]:
    """The text of a stream, and when its first bytes came. ValueError: it is none."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        body = json.dumps(job).encode()
        head = "POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n" \
               f"Content-Length: {len(body)}\r\n\r\n"  # fmt: skip
        writer.write(head.encode() + body)
        status = await reader.readline()
        if b" 200 " not in status:
            raise ValueError((status + await reader.read(2000)).decode("utf-8", "replace"))
        text, first = "", 0.0
        while line := await reader.readline():  # every event is a chunk, so every line is whole
            if line == b"data: [DONE]\n":
                return text, first
            if line.startswith(b"data: "):
                event = json.loads(line[6:])
                first = first or time.monotonic()
                text += event["choices"][0]["text"]
        raise ValueError("a stream without an end")
    finally:
        writer.close()


def wait_for_port(server: subprocess.Popen) -> int:
    """The port, once the server says that it is ready. UserError: it ends before."""
    said = []
    for line in server.stderr:
        said.append(line)
        if found := re.search(r"ready after .*:(\d+)/v1", line):
            return int(found[1])
    raise UserError("the server ended: " + (said[-1].strip() if said else "it said nothing"))


def memory_of(process: int) -> int:
    """Resident bytes; 0 where the system does not tell."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, ValueError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def write_random_run(folder: Path, size: str) -> Path:
    """A run of random weights, as training leaves it."""
    import jax
    import numpy as np

    from hat import config as configs
    from hat.benchmarks.generate import hat_config
    from hat.data.config import DataConfig
    from hat.training.checkpoints import Checkpoints
    from hat.training.config import TrainingConfig
    from hat.training.experiment import Experiment

    model = hat_config(size)
    experiment = Experiment("random", model, DataConfig(), TrainingConfig(steps=1, batch_size=1))
    (folder / "config.json").write_text(json.dumps(configs.to_dict(experiment)))
    params = jax.jit(model.build().init)(jax.random.key(0))
    checkpoints = Checkpoints(folder)
    checkpoints.save(1, {"step": np.int32(1), "params": params}, {}, force=True)
    checkpoints.close()
    return folder


def report(tally: Tally, status: int, arguments: argparse.Namespace) -> dict:
    for error in tally.errors[:5]:
        print(f"error: {error}", file=sys.stderr)
    settled = [size for when, size in tally.memory if when >= arguments.seconds / 4]
    result = {
        "clients": arguments.clients,
        "texts": tally.texts,
        "errors": len(tally.errors),
        "wrong_texts": tally.wrong,
        "bytes_per_second": tally.bytes / arguments.seconds,
        "first_seconds": quantiles(tally.first),
        "whole_seconds": quantiles(tally.whole),
        "memory_bytes": {"first_quarter": settled[0], "end": settled[-1]} if settled else {},
        "exit_status": status,
    }
    print(f"{arguments.clients} clients, {arguments.seconds:g} s: {tally.texts} texts, "
          f"{len(tally.errors)} errors, {tally.wrong} wrong texts, "
          f"{result['bytes_per_second']:,.0f} bytes/s; exit status {status} after SIGTERM")
    for name in ("first", "whole"):
        times = result[f"{name}_seconds"]
        print(f"seconds to the {'first bytes' if name == 'first' else 'last byte'}: median "
              f"{times['median']:.2f}, 99 in 100 within {times['p99']:.2f}")
    if settled:
        print(f"memory of the server: {settled[0] / 1e6:,.0f} MB after a quarter of the time, "
              f"{settled[-1] / 1e6:,.0f} MB at the end")
    return result


def quantiles(values: list[float]) -> dict[str, float]:
    if not values:
        return {"median": float("nan"), "p99": float("nan")}
    ranked = sorted(values)
    return {"median": statistics.median(ranked), "p99": ranked[int(0.99 * (len(ranked) - 1))]}
