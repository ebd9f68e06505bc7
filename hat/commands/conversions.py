"""What `hat convert` does: opens one format, and writes another in a folder that appears whole."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from hat import config as configs
from hat.conversion import hf_config, released_hat, tensor_files
from hat.conversion.llama import fit_tokenizer, open_llama, write_json, write_llama
from hat.conversion.llama_to_hat import check_backbone, init_around
from hat.conversion.released_hat import CARRIED, DEAD_FILE, HatCheckpoint, open_hat, write_hat
from hat.data.config import DataConfig
from hat.data.records import appearing
from hat.errors import UserError
from hat.models.hat import HatConfig
from hat.models.hat_2025 import Hat2025Config
from hat.models.llama import LlamaConfig
from hat.models.model import Params
from hat.text.splitters import keep_splitter, make_splitter
from hat.text.token_words import TokenWords
from hat.text.tokenizers import FILES as TOKENIZER_FILES
from hat.text.tokenizers import ByteTokenizer, Tokenizer, load_tokenizer
from hat.training.config import TrainingConfig
from hat.training.converted_run import local_shardings, read_params, write_run
from hat.training.experiment import Experiment
from hat.training.progress import warn
from hat.training.run_folder import CONFIG_FILE, read_experiment

# What a Hugging Face folder holds beside parameters: none of it is ours to write again.
COMPANIONS = (
    *TOKENIZER_FILES, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "merges.txt", "chat_template.jinja", "generation_config.json",
)  # fmt: skip
ROW_LENGTH = 2048  # ids in a row of an imported model: documents are scored in pieces of it
HAT_ROW = dict(row_length=4096, row_words=1024)


@dataclasses.dataclass(frozen=True)
class Source:
    """What is converted; its parameters are not read yet.

    kind: a run, a folder of another format, or a file. experiment: it as a run. read: (config,
    shardings, parts) -> parameters. origin: the config.json that it has or once came with.
    beside: the folder of its COMPANIONS. released: where it is a HAT in the released layout.
    """

    kind: Literal["run", "folder", "file"]
    path: Path
    experiment: Experiment
    read: Callable[..., Params]
    tokenizer: Tokenizer | None = None
    origin: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    beside: Path | None = None
    released: HatCheckpoint | None = None

    @property
    def is_hat(self) -> bool:
        return isinstance(self.experiment.model, HatConfig)


def convert(
    path: Path,
    to: str,
    out: Path,
    *,
    tokenizer: Path | None = None,
    config: Experiment | None = None,
    fit: bool = False,
    word_steps: int = 0,
    changes: Sequence[str] = (),
) -> dict[str, Any]:
    """Converts what is at `path`; see `hat.commands.convert`.

    config: of the HAT, for to="hat", and fit: whether its backbone is to be that of the Llama
    whatever it says; word_steps: of learning the embeddings of words that are the Llama's tokens
    (hat.training.spellings); changes: to the config of the run, for to="native".
    Returns what was converted, its number of parameters and their bytes, and with word_steps the
    word_distance that is left. UserError: what cannot be read or written; nothing is left of `out`
    then.
    """
    source = open_source(path, tokenizer)
    out.parent.mkdir(parents=True, exist_ok=True)
    distance = None
    with appearing(out) as folder:
        if to == "native":
            params = _write_native(source, folder, out, changes)
        elif to == "hat":
            params, distance = _write_hat(source, folder, config, fit, word_steps)
        elif to == "hf":
            params = _write_hf(source, folder)
        else:
            params = _write_released(source, folder)
    leaves = list(_leaves(params))
    return {
        "source": str(path),
        "to": to,
        "model": "HAT" if source.is_hat or to == "hat" else "Llama",
        "parameters": sum(leaf.size for leaf in leaves),
        "bytes": sum(leaf.nbytes for leaf in leaves),
    } | ({} if distance is None else {"word_distance": distance})


def _leaves(params: Params):
    for value in params.values():
        yield from _leaves(value) if isinstance(value, dict) else [value]


# --- opening --------------------------------------------------------------------------------------


def open_source(path: Path, tokenizer: Path | None = None) -> Source:
    """UserError: nothing there, or nothing that can be converted."""
    if not path.exists():
        raise UserError(f"{path}: no such file or folder")
    if path.is_dir():
        if not (path / CONFIG_FILE).is_file():
            tensor_files.refuse_pickles(path)
        fields = hf_config.read_fields(path / CONFIG_FILE).values
        is_run = fields.get(configs.KIND) == Experiment.__name__
        if is_run or fields.get("model_type") == released_hat.MODEL_TYPE:
            if tokenizer is not None:
                what = "a run, which has its own" if is_run else "a HAT, which has none"
                raise UserError(f"--tokenizer {tokenizer}: {path} is {what}")
            return _open_run(path) if is_run else _open_released(path)
    return _open_llama(path, tokenizer)


def _open_run(path: Path) -> Source:
    experiment = read_experiment(path)
    kind = type(experiment.model)
    if kind not in (HatConfig, LlamaConfig):
        raise UserError(f"{path} is of {kind.__name__}, which no other format knows")
    tokenizer = None
    if experiment.data.tokenizer == "bytes":
        tokenizer = ByteTokenizer()
    elif _has_tokenizer(path):
        tokenizer = load_tokenizer(path)

    def read(config, shardings, parts=None):
        return read_params(path, config.build(), shardings, parts)

    beside = path / CARRIED
    origin = beside / CONFIG_FILE
    return Source(
        "run",
        path,
        experiment,
        read,
        tokenizer,
        origin=hf_config.read_fields(origin).values if origin.is_file() else {},
        beside=beside,
    )


def _open_released(path: Path) -> Source:
    checkpoint = open_hat(path)
    data = DataConfig(splitter=checkpoint.splitter, **HAT_ROW)
    return Source(
        "folder",
        path,
        _experiment(path, checkpoint.config, data),
        checkpoint.read,
        origin=checkpoint.fields,
        beside=path,
        released=checkpoint,
    )


def _open_llama(path: Path, tokenizer_path: Path | None) -> Source:
    checkpoint = open_llama(path)
    config, tokenizer = checkpoint.config, None
    if tokenizer_path is None and path.is_dir():
        found = (path / name for name in TOKENIZER_FILES if (path / name).is_file())
        tokenizer_path = next(found, None)
    if tokenizer_path is not None:
        tokenizer = load_tokenizer(tokenizer_path)
        config = fit_tokenizer(config, tokenizer, tokenizer_path)
    fields = hf_config.Fields(checkpoint.fields, str(path))
    positions = fields.get("max_position_embeddings", int, ROW_LENGTH)
    data = DataConfig(tokenizer=str(path.absolute()), row_length=min(positions, ROW_LENGTH))
    return Source(
        "folder" if path.is_dir() else "file",
        path,
        _experiment(path, config, data),
        checkpoint.read,
        tokenizer,
        origin=checkpoint.fields,
        beside=path if path.is_dir() else None,
    )


def _experiment(path: Path, model: LlamaConfig | HatConfig, data: DataConfig) -> Experiment:
    name = path.resolve().name if path.is_dir() else path.stem
    return Experiment(name, model, data, TrainingConfig(steps=1))


def _has_tokenizer(folder: Path) -> bool:
    return any((folder / name).is_file() for name in TOKENIZER_FILES)


# --- writing --------------------------------------------------------------------------------------


def _write_native(source: Source, folder: Path, out: Path, changes: Sequence[str]) -> Params:
    if source.kind == "run":
        raise UserError(f"{source.path} is a run already")
    experiment = source.experiment
    if not source.is_hat:
        data = dataclasses.replace(experiment.data, tokenizer=str(out))
        experiment = dataclasses.replace(experiment, data=data)
    experiment = configs.override(experiment, changes)
    params = source.read(experiment.model, local_shardings(experiment.model.build()))
    write_run(folder, experiment, params)
    if source.is_hat and experiment.model.guide == "released":
        warn(
            'the model keeps guide="released", which looks ahead inside a character: to generate '
            "byte by byte, convert with --set model.guide=earliest"
        )
    if source.tokenizer is not None:
        source.tokenizer.save(folder)
    elif not source.is_hat:
        warn(
            f"{source.path} has no tokenizer: to score or generate, put its tokenizer.json or "
            f"tokenizer.model into {out}"
        )
    carried = folder / CARRIED
    carried.mkdir()
    write_json(carried / CONFIG_FILE, source.origin)
    _copy_companions(source, carried)
    if source.released is not None:
        source.released.write_dead(experiment.model, carried)
    return params


def _write_hat(
    source: Source, folder: Path, experiment: Experiment, fit: bool, word_steps: int
) -> tuple[Params, float | None]:
    """The parameters, and with word_steps the distance that `fit_encoder` leaves."""
    if source.is_hat:
        raise UserError(f"{source.path} is a HAT already; --to hat takes a Llama")
    config = experiment.model
    if type(config) not in (HatConfig, Hat2025Config):
        kind = "a Llama" if isinstance(config, LlamaConfig) else type(config).__name__
        raise UserError(f"the config {experiment.name} is of {kind}; give that of a HAT")
    llama = source.experiment.model
    if fit:
        config = dataclasses.replace(config, backbone=llama.stack)
        if isinstance(config, Hat2025Config):
            rule = make_splitter(experiment.data.splitter)
            if isinstance(rule, TokenWords):
                config = dataclasses.replace(config, word_bytes=rule.max_word_bytes)
        experiment = dataclasses.replace(experiment, model=config)
    check_backbone(config, llama.stack)
    if word_steps:
        _check_words(experiment, source)
    import jax

    shardings = local_shardings(config.build())
    places = {"backbone": shardings["backbone"]["layers"]}
    backbone = source.read(llama, places, parts=("backbone",))["backbone"]
    key = jax.random.key(experiment.training.seed)
    params, distance = init_around(config, backbone, key, shardings), None
    if word_steps:
        from hat.training.spellings import fit_encoder

        places = {"embedding": local_shardings(llama.build())["embedding"]}
        table = source.read(llama, places, parts=("embedding",))["embedding"]["table"]
        seed = experiment.training.seed
        params["encoder"], distance = fit_encoder(
            config, params, source.tokenizer, table, word_steps, seed,
            lambda step, distance: warn(f"words, step {step} of {word_steps}: {distance:.2g} away"),
        )  # fmt: skip
    write_run(folder, dataclasses.replace(experiment, init=None), params)
    keep_splitter(experiment.data.splitter, folder)
    return params, distance


def _check_words(experiment: Experiment, source: Source) -> None:
    """UserError: words whose embeddings the Llama cannot tell."""
    if not isinstance(experiment.model, Hat2025Config):
        raise UserError(
            f"--word-steps: the encoder of {experiment.name} sees more than a word, so that no "
            "spelling has one embedding; give the config of a HAT of 2025, or leave it out"
        )
    rule = make_splitter(experiment.data.splitter)
    theirs = source.tokenizer and source.tokenizer.name
    if not isinstance(rule, TokenWords) or rule.tokenizer.name != theirs:
        raise UserError(
            f"--word-steps: the words of {experiment.name} are not the tokens of the Llama; set "
            f"data.splitter, which is {experiment.data.splitter!r}, to tokens:PATH with its tokenizer"
        )


def _write_hf(source: Source, folder: Path) -> Params:
    config, tokenizer = source.experiment.model, source.tokenizer
    if source.is_hat:
        raise UserError(f"{source.path} is a HAT, and --to hf writes Llamas; use --to hf-hat")
    _refuse_same(source)
    params = source.read(config, local_shardings(config.build()))
    specials = {}
    if tokenizer is not None:
        ids = {"bos": tokenizer.bos, "eos": tokenizer.eot, "pad": tokenizer.pad}
        specials = {f"{name}_token_id": id for name, id in ids.items()}
    row_length = source.experiment.data.row_length
    write_llama(folder, config, params, source.origin, specials, row_length)
    _copy_companions(source, folder)
    if tokenizer is not None and not _has_tokenizer(folder):
        tokenizer.save(folder)
    return params


def _write_released(source: Source, folder: Path) -> Params:
    config = source.experiment.model
    if not source.is_hat:
        raise UserError(
            f"{source.path} is a Llama, and --to hf-hat writes HATs; use --to hf, or --to hat first"
        )
    _refuse_same(source)
    if config.guide != "released":
        warn(
            f'the model was trained with guide="{config.guide}" and BOS: the released code, which '
            "has neither, will score its bytes otherwise"
        )
    splitter = make_splitter(source.experiment.data.splitter)
    if not splitter.name.startswith("words"):
        warn(f"the model was trained with splitter {splitter.name}; the released code has its own")
    params = source.read(config, local_shardings(config.build()))
    dead = source.beside / DEAD_FILE
    write_hat(
        folder,
        config,
        params,
        source.origin,
        getattr(splitter, "max_word_bytes", 100),
        dead if dead.is_file() else None,
    )
    _copy_companions(source, folder)
    return params


def _refuse_same(source: Source) -> None:
    if source.kind == "folder":
        raise UserError(f"{source.path} has that layout already")


def _copy_companions(source: Source, folder: Path) -> None:
    for name in COMPANIONS:
        if source.beside is not None and (source.beside / name).is_file():
            shutil.copyfile(source.beside / name, folder / name)
