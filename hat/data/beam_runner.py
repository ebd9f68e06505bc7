"""Preparation in shards in an Apache Beam pipeline, on whatever runs such pipelines.

The source, the folder of the corpus and its parent must be on a file system that all workers
mount at the same path, and `hat` must be installed where they run. What goes over the wire are
the encoded documents; a worker holds those of one shard in memory at a time. Only the hashes of the
files that name the corpus are made on the machine that starts the pipeline, by its threads.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import re
from collections.abc import Iterator, Sequence

from hat.data.sharded import Job, Progress, pack, route, scan
from hat.errors import UserError

try:
    import apache_beam as beam
    from apache_beam.options.pipeline_options import PipelineOptions
except ModuleNotFoundError as error:
    raise UserError(
        f"the Beam runner needs Apache Beam ({error.name} is missing): pip install -e '.[beam]' "
        "in an environment of its own, without constraints.txt"
    ) from None

# Beam's own default would first look for a runner written in Go, on the network.
_IN_PROCESS = "--runner=apache_beam.runners.portability.fn_api_runner.FnApiRunner"
# Runners raise an error of their own that quotes the one of the task, or that one, and both with
# more behind it.
_USER_ERROR = re.compile(r"UserError: (.*?)(?: \[while running|$)", re.MULTILINE)
# A mistake of the user needs no traceback.
logging.getLogger("apache_beam.runners.common").addFilter(
    lambda record: not (record.exc_info and isinstance(record.exc_info[1], UserError))
)


class BeamRunner:
    def __init__(self, options: Sequence[str] = ()):
        """options: of the pipeline, as on the command line: ["--runner=FlinkRunner", ...]. None
        is the runner of this process. UserError for an option that Beam does not know."""
        try:
            known = PipelineOptions(list(options))
            unknown = known.get_all_options(retain_unknown_options=True).keys() - (
                PipelineOptions([]).get_all_options().keys()
            )
        except SystemExit:  # what Beam's parser of options does about a bad value
            raise UserError(f"Beam refuses these options: {' '.join(options)}") from None
        if unknown:
            raise UserError(f"Beam knows no option {', '.join(sorted(unknown))}")
        self._options = [_IN_PROCESS, *options]  # a later --runner wins

    def scan(self, job: Job, numbers: Sequence[int], progress: Progress) -> None:
        total = sum(map(job.input_bytes, numbers))
        progress("reading", 0, total)
        with self._pipeline() as pipeline:
            _spread(pipeline, numbers) | "scan" >> beam.Map(functools.partial(scan, job))
        progress("reading", total, total)

    def pack(self, job: Job, shards: Sequence[int], progress: Progress) -> None:
        if not shards:
            return
        numbers = range(len(job.inputs))
        total = sum(map(job.input_bytes, numbers))
        progress("packing", 0, total)
        kind = tuple[int, bytes]
        with self._pipeline() as pipeline:
            routing = beam.FlatMap(functools.partial(route, job)).with_output_types(kind)
            documents = _spread(pipeline, numbers) | "route" >> routing
            # A shard without documents is packed too.
            marks = pipeline | "shards" >> beam.Create([(shard, b"") for shard in shards])
            marks |= "typed" >> beam.Map(lambda mark: mark).with_output_types(kind)
            grouped = (documents, marks) | beam.Flatten() | beam.GroupByKey()
            grouped | "pack" >> beam.MapTuple(functools.partial(_pack, job))
        progress("packing", total, total)

    @contextlib.contextmanager
    def _pipeline(self) -> Iterator[beam.Pipeline]:
        try:
            with beam.Pipeline(options=PipelineOptions(self._options)) as pipeline:
                yield pipeline
        except Exception as error:  # every runner has its own
            if found := _USER_ERROR.search(f"{type(error).__name__}: {error}"):
                raise UserError(found[1]) from None
            raise


def _spread(pipeline: beam.Pipeline, numbers: Sequence[int]) -> beam.PCollection[int]:
    """The numbers, one by one on any worker."""
    return pipeline | "inputs" >> beam.Create(list(numbers)) | beam.Reshuffle()


def _pack(job: Job, shard: int, documents: Iterator[bytes]) -> None:
    pack(job, shard, (document for document in documents if document))
