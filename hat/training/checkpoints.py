"""Checkpoints of a run: written in the background, trusted once finalised, restored onto any mesh.

One directory a step under OUT/checkpoints, written by Orbax: the arrays of the train state under
`state`, and `meta`, a small JSON object (the index into the data, seconds trained, the experiment's
config, versions, fingerprints). A step is written under a temporary name and renamed when it is
complete, so a killed process or a full disk leaves at worst a leftover that the next run removes.

When: by time, at multiples of a step, on preemption, or because the caller says so. Which stay: the
newest few, and the multiples. Both are Orbax's own policies; what depends on a clock is decided by
the first process and told to the others.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import checkpoint_managers as policies

from hat.errors import UserError
from hat.training.config import CheckpointConfig

LARGE_BYTES = 2**26  # arrays whose copies on the host count

Tree = Any
Meta = dict[str, Any]


class Checkpoints:
    """The checkpoints under `out_dir`/checkpoints.

    A training process makes one with its config; it removes what an interrupted save left behind.
    A reader (generation, evaluation) passes read_only=True and changes nothing, so that it may run
    beside the training. Every process of a multi-process run makes one and calls every method.
    """

    def __init__(
        self,
        out_dir: str | os.PathLike,
        config: CheckpointConfig = CheckpointConfig(),
        *,
        read_only: bool = False,
        host_bytes: int | None = None,
    ) -> None:
        """host_bytes: of arrays that are on their way at a time, beside those of the caller; at
        least the largest array. None: all at once, which lets go of the caller soonest."""
        out_dir = os.fspath(out_dir)
        # Orbax takes absolute paths alone; a bucket's address (gs://...) is absolute as it is.
        out_dir = out_dir if "://" in out_dir else os.path.abspath(out_dir)
        self.directory = epath.Path(out_dir) / "checkpoints"
        self._read_only = read_only
        self._saving: int | None = None  # the step last given to Orbax, until known to be complete
        _silence_orbax()
        # More than the largest array, or Orbax refuses it; a fraction, since it counts in 10^9.
        gigabytes = None if host_bytes is None else Fraction(host_bytes + 1, 10**9)
        in_turn = {} if gigabytes is None else {
            "save_device_host_concurrent_gb": gigabytes,
            "restore_concurrent_gb": gigabytes,
            **_without_priority(host_bytes),
        }
        # The first save comes at once: a disk that cannot be written shows at the start of a run.
        saves = [policies.ContinuousCheckpointingPolicy(minimum_interval_secs=config.every_seconds)]
        keeps = [policies.LatestN(config.keep_recent)]
        if config.every_steps is not None:
            saves.insert(0, policies.FixedIntervalPolicy(config.every_steps))
            keeps.append(policies.EveryNSteps(config.every_steps))
        options = ocp.CheckpointManagerOptions(
            save_decision_policy=policies.AnySavePolicy(
                [policies.PreemptionCheckpointingPolicy(), *saves]
            ),
            preservation_policy=policies.AnyPreservationPolicy(keeps),
            cleanup_tmp_directories=not read_only,
            create=not read_only,
            read_only=read_only,
        )
        try:
            self._manager = ocp.CheckpointManager(
                self.directory,
                # Named, or a manager that has not saved yet could not tell the arrays' names.
                item_handlers={
                    "state": ocp.PyTreeCheckpointHandler(**in_turn),
                    "meta": ocp.JsonCheckpointHandler(),
                },
                options=options,
            )
        except OSError as error:
            raise UserError(
                f"cannot write checkpoints to {self.directory}: {error.strerror}; "
                "choose another --out"
            ) from error

    # --- writing ----------------------------------------------------------------------------------

    def save(self, step: int, state: Tree, meta: Meta, *, force: bool = False) -> bool:
        """Starts a save if one is due at `step`, or if `force`; whether it did.

        Returns once the arrays are copied off the devices, so the caller may donate them at once.
        Waits for a save that is still being written only if this one is due by step or forced. Call
        it after every step: where nothing is due it takes a third of a millisecond, one with two
        processes.
        state: a pytree of arrays (no Python scalars, no typed random keys), or what makes it if it
        is to be saved. meta: JSON.
        Nothing happens for a step that is saved already.
        UserError: this save, or the one before it, cannot be written.
        """
        meta = json.loads(json.dumps(meta))  # a mistake in it shows here, not in the background
        self.check_errors()
        if not (force or self._manager.should_save(step)):
            return False
        self.wait()
        if self._read_only or step in self._manager.all_steps():
            return False
        state = state() if callable(state) else state
        try:
            self._saving = step
            return self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.PyTreeSave(state), meta=ocp.args.JsonSave(meta)
                ),
                force=True,
            )
        except Exception as error:
            raise self._failure(step, error) from error

    def wait(self) -> None:
        """Blocks until what was started is on disk. UserError: it could not be written."""
        step, self._saving = self._saving, None
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failure(step, error) from error

    def check_errors(self) -> None:
        """UserError if a save that ran in the background has failed. Does not block."""
        # Orbax's own check_for_errors stays silent here: its finalising thread took the error.
        if self._saving is not None and not self._manager.is_saving_in_progress():
            self.wait()

    def reached_preemption(self, step: int) -> bool:
        """Whether the cluster has announced, to any process, that it takes machines away.

        True at the same step everywhere; `save` is due then. One process alone is never told.
        """
        return self._manager.reached_preemption(step)

    def close(self) -> None:
        """Waits for the last save and lets the threads go. UserError: it could not be written."""
        try:
            self.wait()
        finally:
            self._manager.close()

    def _failure(self, step: int | None, error: Exception) -> UserError:
        self._saving = None
        self._manager.reload()  # Orbax forgets early what it meant to delete; all of it is there
        latest = self.latest_step()
        kept = "no checkpoint is complete" if latest is None else f"step {latest} is complete"
        return UserError(
            f"the checkpoint of step {step} could not be written to {self.directory}: "
            f"{_reason(error)}; {kept}; make room and run the same command again to resume"
        )

    # --- reading ----------------------------------------------------------------------------------

    def steps(self) -> list[int]:
        """The steps that are complete on disk, ascending."""
        # Not Orbax's own list: it names a step from the moment that its save begins.
        return sorted(ocp.utils.checkpoint_steps(self.directory)) if self.directory.exists() else []

    def latest_step(self) -> int | None:
        """The newest step that is complete on disk."""
        return max(self.steps(), default=None)

    def restore(
        self,
        abstract_state: Tree,
        differing: Callable[[Meta], Sequence[str]] | None = None,
        *,
        partial: bool = False,
    ) -> tuple[Tree, Meta] | None:
        """The newest readable checkpoint, placed as asked, and its meta; None if there is none.

        abstract_state: `jax.ShapeDtypeStruct`s with shardings, of any mesh (without: the first
        device). differing: given the meta, the fields in which the run it came from is another
        (see `hat.config.differences`); any is an error. partial: the state has more, which stays.
        A damaged checkpoint is told on standard error and put aside as damaged-STEP-TIME, and the
        one before it is taken. Damage is what cannot be read: files missing, cut short or garbled
        in their structure. Orbax keeps no checksum of the numbers, so a flipped bit inside one of
        them passes.
        UserError: another run's checkpoint; arrays of other names, shapes or dtypes; all damaged.
        """
        found = self._newest(abstract_state, differing, partial=partial)
        if found is None:
            return None
        state, meta, damaged = found
        if damaged and jax.process_index() == 0:
            for step in damaged:  # the run will come to this step again and save it
                aside = f"damaged-{step}-{int(time.time())}"
                (self.directory / str(step)).rename(self.directory / aside)
        if damaged:
            multihost_utils.sync_global_devices("checkpoints_put_aside")
            self._manager.reload()
        return state, meta

    def restore_params(self, abstract_params: Tree) -> tuple[Tree, Meta]:
        """Only the child `params` of the newest readable state, and the meta. Changes nothing.

        abstract_params: as for `restore`; another dtype is converted to.
        UserError: no checkpoint; other names or shapes; all damaged.
        """
        found = self._newest({"params": abstract_params}, None, partial=True)
        if found is None:
            raise UserError(f"no checkpoint in {self.directory}; train first, or give another run")
        return found[0]["params"], found[1]

    def param_dtypes(self) -> dict[str, np.dtype]:
        """Of every parameter of the newest checkpoint by its path; empty if there is none that
        can be read."""
        step = self.latest_step()
        head, error = (None, None) if step is None else self._attempt(lambda: self._read_head(step))
        if head is None or error is not None:
            return {}
        named = jax.tree.leaves_with_path(head[1].get("params", {}))
        return {
            jax.tree_util.keystr(path, simple=True, separator="/"): np.dtype(leaf.dtype)
            for path, leaf in named
        }

    def _newest(
        self, abstract: Tree, differing: Callable[[Meta], Sequence[str]] | None, *, partial: bool
    ) -> tuple[Tree, Meta, list[int]] | None:
        """(tree, meta, damaged steps) of the newest checkpoint that can be read."""
        abstract = _placed(abstract)
        damaged: list[int] = []
        steps = self.steps()
        for step in reversed(steps):
            # Two readings, agreed upon one by one: no process enters the collective second one
            # when another has failed in the first.
            head, error = self._attempt(lambda: self._read_head(step))
            if error is None:
                meta, saved = head
                fields = list(differing(meta)) if differing else []
                self._refuse(step, fields or _array_differences(saved, abstract, partial))
                tree, error = self._attempt(lambda: self._read_state(step, abstract, partial))
            if error is None:
                return tree, meta, damaged
            damaged.append(step)
            if jax.process_index() == 0:
                print(
                    f"warning: checkpoint {self.directory}/{step} is damaged: {_reason(error)}",
                    file=sys.stderr,
                )
        if not steps:
            return None
        raise UserError(
            f"none of the checkpoints in {self.directory} can be read (steps "
            f"{', '.join(map(str, steps))}): {_reason(error)}; move them away to start anew"
        )

    def _attempt(self, read: Callable[[], Any]) -> tuple[Any, Exception | None]:
        """What `read` returns, or the error; an error anywhere is an error everywhere."""
        result, error = None, None
        try:
            result = read()
        except Exception as caught:  # whatever damage does to Orbax, tensorstore, JSON
            error = caught
        if jax.process_count() > 1:
            failed = multihost_utils.process_allgather(np.array(error is not None)).any()
            error = error or (OSError("another process cannot read it") if failed else None)
        return result, error

    def _read_head(self, step: int) -> tuple[Meta, Tree]:
        """Its meta, and the names, shapes and dtypes of its arrays."""
        args = ocp.args.Composite(meta=ocp.args.JsonRestore())
        meta = self._manager.restore(step, args=args)["meta"]
        return meta, self._manager.item_metadata(step)["state"].tree

    def _read_state(self, step: int, abstract: Tree, partial: bool) -> Tree:
        args = ocp.args.PyTreeRestore(
            abstract,
            restore_args=ocp.checkpoint_utils.construct_restore_args(abstract),
            partial_restore=partial,
        )
        return self._manager.restore(step, args=ocp.args.Composite(state=args))["state"]

    def _refuse(self, step: int, fields: Sequence[str]) -> None:
        if fields:
            more = f" and {len(fields) - 4} more" if len(fields) > 4 else ""
            raise UserError(
                f"checkpoint {self.directory}/{step} does not fit (saved, then asked for): "
                f"{', '.join(fields[:4])}{more}; restore these, or train into another --out"
            )


def read_params(folder: str | os.PathLike, abstract_params: Tree) -> tuple[Tree, Meta]:
    """`Checkpoints.restore_params` of the run in `folder`, and no more of it."""
    checkpoints = Checkpoints(folder, read_only=True)
    try:
        return checkpoints.restore_params(abstract_params)
    finally:
        checkpoints.close()


def _placed(abstract: Tree) -> Tree:
    """`abstract` with the first local device where it names no sharding (Orbax: a numpy array)."""
    device = SingleDeviceSharding(jax.local_devices()[0])
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(
            leaf.shape, leaf.dtype, sharding=getattr(leaf, "sharding", None) or device
        ),
        abstract,
    )


def _array_differences(saved: Tree, abstract: Tree, partial: bool) -> list[str]:
    """Arrays missing, superfluous or of another shape or dtype; `partial`: what is asked for alone.

    Needed because Orbax converts dtypes silently and, restoring a part, leaves a name that it does
    not find as the abstract leaf.
    """

    def named(tree: Tree) -> dict[str, Any]:
        return {
            jax.tree_util.keystr(path, simple=True, separator="/"): leaf
            for path, leaf in jax.tree.leaves_with_path(tree)
        }

    def show(leaf: Any) -> str:
        return "missing" if leaf is None else f"{leaf.dtype}{list(leaf.shape)}"

    old, new = named(saved), named(abstract)
    names = new if partial else dict.fromkeys([*old, *new])
    found = []
    for name in names:
        a, b = old.get(name), new.get(name)
        same = a is not None and b is not None and tuple(a.shape) == tuple(b.shape)
        if not same or (a.dtype != b.dtype and not partial):
            found.append(f"{name} {show(a)} -> {show(b)}")
    return found


def _reason(error: Exception) -> str:
    """One line of an error that may be a page: of tensorstore's chain of causes, the innermost."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = text.partition(" [os_error_code=")[0].partition(" [source locations=")[0]
    return text if len(text) <= 200 else f"{text[:60]} ... {text[-130:]}"


class _NotOrbax(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return f"{os.sep}orbax{os.sep}" not in record.pathname


def _silence_orbax() -> None:
    """A failed save is one UserError here; Orbax would log it as four tracebacks beside."""
    logger = logging.getLogger("absl")
    if not any(isinstance(item, _NotOrbax) for item in logger.filters):
        logger.addFilter(_NotOrbax())


def _without_priority(host_bytes: int) -> dict[str, Any]:
    """Options of Orbax by which no array has priority: those that have are copied off the devices
    all at once, whatever the limit. Orbax 0.12.8 ignores its public option for that."""
    try:
        from orbax.checkpoint._src.serialization import types

        callback_class = types.DefaultSerializationStatusCallback
        last = types.TransferPriority.ASYNCHRONOUS_DEPRIORITIZED
    except (ImportError, AttributeError):
        return {"is_prioritized_key_fn": lambda path: False}

    class InTurn(callback_class):
        def key_priority(self, keypath):
            return last

        def on_write_end(self, keypath):
            # The copies that are written hang in circles of references. Looking for them takes as
            # long as the process has objects, so small ones wait for the collector to come by.
            if host_bytes >= LARGE_BYTES:
                gc.collect()

    return {
        "type_handler_registry": ocp.type_handlers.create_type_handler_registry(
            (jax.Array, ocp.type_handlers.ArrayHandler(callback=InTurn()))
        )
    }
