"""One interface over tokenizers: ids of bytes, and the bytes that every id spells.

Every tokenizer here is lossless on arbitrary bytes: `decode(encode(data)) == data`. What would
change the text on its way in is switched off (dummy prefixes, merging of spaces, Unicode
normalisation), an invalid byte of UTF-8 becomes the token of that one byte, and a vocabulary
that cannot spell every byte is refused. BOS, EOT and PAD are the vocabulary's own special tokens
where it has them, and otherwise follow it in this order; where it has an end of text and no BOS,
as in GPT-2 and Qwen, the one is the other too. `encode` never returns them.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from hat.errors import UserError
from hat.text import ids as byte_ids
from hat.text import sentencepiece_file, tiktoken_file

SPACE = "\u2581"  # how SentencePiece writes a space inside a piece
_BOS_NAMES = ("<|begin_of_text|>", "<s>", "<bos>")
_EOT_NAMES = ("<|end_of_text|>", "</s>", "<eos>", "<|endoftext|>")
_PAD_NAMES = ("<|finetune_right_pad_id|>", "<pad>", "<|pad|>")


class Tokenizer:
    """What all tokenizers share. A subclass gives `_encode_text`, and its file to `save`.

    name: identifies the vocabulary in fingerprints. vocab_size: ids below it belong to the
    vocabulary. bos, eot, pad: special ids. num_ids: rows that an embedding needs, a multiple of 8.
    byte_lengths: int32[num_ids], bytes that each id spells, 0 for specials. spells_apart: whether
    U+2581 is spelled byte by byte, as if each were invalid.
    """

    def __init__(
        self,
        name: str,
        spellings: Sequence[bytes],
        specials: tuple[int | None, int | None, int | None] = (None, None, None),
        apart: str = "",
    ):
        """spellings: the bytes of each id, empty for specials. specials: ids of BOS, EOT and PAD,
        None where the vocabulary has none. apart: characters spelled byte by byte."""
        self.name = name
        self.vocab_size = len(spellings)
        free = iter(range(len(spellings), len(spellings) + 3))
        self.bos, self.eot, self.pad = (next(free) if i is None else i for i in specials)
        used = next(free, len(spellings) + 3)
        self.num_ids = -(-used // 8) * 8
        self._spellings = list(spellings) + [b""] * (self.num_ids - len(spellings))
        self.byte_lengths = np.array([len(s) for s in self._spellings], np.int32)
        self._single = self._single_tokens(spellings)
        self.spells_apart = bool(apart)
        # "surrogateescape" decodes an invalid byte to U+DC80..U+DCFF.
        self._stretch = re.compile(f"([\udc80-\udcff{apart}]+)")

    def encode(self, data: bytes) -> np.ndarray:
        """int32[n], ids that spell `data` exactly. No BOS, no EOT."""
        text = data.decode("utf-8", "surrogateescape")
        parts = []
        for number, stretch in enumerate(self._stretch.split(text)):
            if number % 2:
                raw = np.frombuffer(stretch.encode("utf-8", "surrogateescape"), np.uint8)
                parts.append(self._single[raw])
            elif stretch:
                parts.append(np.array(self._encode_text(stretch), np.int32))
        ids = np.concatenate(parts) if parts else np.zeros(0, np.int32)
        if self.decode(ids) != data:
            raise UserError(f"tokenizer {self.name} changes the text that it encodes: use another")
        return ids

    def decode(self, ids: Iterable[int]) -> bytes:
        """The bytes that the ids spell; specials spell nothing."""
        return b"".join(map(self._spellings.__getitem__, np.asarray(ids, np.int64).tolist()))

    def token_bytes(self, token: int) -> bytes:
        # An embedding may have more rows than the tokenizer has tokens: these spell nothing.
        return self._spellings[token] if token < len(self._spellings) else b""

    def save(self, folder: Path) -> None:
        """Writes the one file that `load_tokenizer(folder)` reads."""
        raise NotImplementedError

    def _single_tokens(self, spellings: Sequence[bytes]) -> np.ndarray:
        """int32 [256]: the token of each byte alone. UserError where there is none."""
        single = {s[0]: i for i, s in reversed(list(enumerate(spellings))) if len(s) == 1}
        missing = sorted(set(range(256)) - set(single))
        if missing:
            raise UserError(
                f"tokenizer {self.name} has no token for byte {missing[0]:#04x} and "
                f"{len(missing) - 1} more: use a byte-level BPE or a SentencePiece model with "
                "byte_fallback"
            )
        return np.array([single[byte] for byte in range(256)], np.int32)

    def _encode_text(self, text: str) -> list[int]:
        raise NotImplementedError


class ByteTokenizer(Tokenizer):
    """Every byte is a token; ids of `hat.text.ids`. There is nothing to save."""

    def __init__(self):
        super().__init__("bytes", [bytes([byte]) for byte in range(byte_ids.NUM_BYTES)])

    def encode(self, data: bytes) -> np.ndarray:
        return np.frombuffer(data, np.uint8).astype(np.int32)

    def save(self, folder: Path) -> None:
        pass


class JsonTokenizer(Tokenizer):
    """A `tokenizer.json` of the Hugging Face library: byte-level, or with byte fallback."""

    FILE = "tokenizer.json"

    def __init__(self, text: str):
        import tokenizers

        self._text = text
        try:
            self.spec = spec = json.loads(text)  # as it is used: with the changes switched off
            _switch_off_changes(spec)
            library = tokenizers.Tokenizer.from_str(json.dumps(spec))
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"not a tokenizer.json of the tokenizers library: {error}") from None
        library.encode_special_tokens = True  # "<s>" inside a document is text
        library.no_truncation()
        library.no_padding()
        self._library = library
        special = {t["content"]: t["id"] for t in spec["added_tokens"] if t["special"]}
        added = {t["content"] for t in spec["added_tokens"]}
        byte_level = _mentions(spec, "ByteLevel")
        spell = _spell_byte_level if byte_level else _spell_piece
        vocabulary = library.get_vocab(with_added_tokens=True)
        spellings = [b""] * (max(vocabulary.values()) + 1)
        for piece, token in vocabulary.items():
            if piece not in special:
                spellings[token] = piece.encode() if piece in added else spell(piece)
        specials = tuple(
            next((special[name] for name in names if name in special), None)
            for names in (_BOS_NAMES, _EOT_NAMES, _PAD_NAMES)
        )
        bos, eot, pad = specials
        apart = "" if byte_level else SPACE
        specials = eot if bos is None else bos, eot, pad
        super().__init__(_name("json", text.encode()), spellings, specials, apart)

    def save(self, folder: Path) -> None:
        (Path(folder) / self.FILE).write_text(self._text, encoding="utf-8")

    def pretoken_starts(self, text: str) -> list[int]:
        """Where the pieces start that the pretokenizer cuts a text into, in characters. An invalid
        byte ("surrogateescape") is a piece, and so is a whole text where there is no pretokenizer."""
        cut, starts, first = self._library.pre_tokenizer, [], 0
        for number, stretch in enumerate(self._stretch.split(text)):
            if number % 2:
                starts += range(first, first + len(stretch))
            elif stretch:
                pieces = [(stretch, (0, 0))] if cut is None else cut.pre_tokenize_str(stretch)
                starts += [first + begin for _, (begin, _) in pieces]
            first += len(stretch)
        return starts

    def _encode_text(self, text: str) -> list[int]:
        return self._library.encode(text, add_special_tokens=False).ids


class SentencePieceTokenizer(Tokenizer):
    """A SentencePiece `.model` with byte fallback."""

    FILE = "tokenizer.model"
    # The serialized model is a protocol buffer, in which a later field overrides an earlier one:
    # normalizer_spec (3) { precompiled_charsmap (2): "", add_dummy_prefix (3): false,
    # remove_extra_whitespaces (4): false }.
    _LOSSLESS = bytes([3 << 3 | 2, 6, 2 << 3 | 2, 0, 3 << 3, 0, 4 << 3, 0])

    def __init__(self, model: bytes):
        import sentencepiece

        self._model = model
        library = sentencepiece.SentencePieceProcessor()
        try:
            library.LoadFromSerializedProto(model + self._LOSSLESS)
            size = library.vocab_size()
        except RuntimeError as error:
            raise UserError(f"not a SentencePiece model: {error}") from None
        self._library = library
        spellings = [b""] * size
        for token in range(size):
            if not (library.is_control(token) or library.is_unknown(token)):
                spellings[token] = _spell_piece(library.id_to_piece(token))
        specials = tuple(
            i if i >= 0 else None for i in (library.bos_id(), library.eos_id(), library.pad_id())
        )
        super().__init__(_name("sentencepiece", model), spellings, specials, SPACE)

    def pieces(self) -> tuple[int, list[sentencepiece_file.Piece]]:
        """The kind of the model and its pieces, by id."""
        return sentencepiece_file.read_model(self._model)

    def save(self, folder: Path) -> None:
        (Path(folder) / self.FILE).write_bytes(self._model)

    def _encode_text(self, text: str) -> list[int]:
        return self._library.encode(text)


FILES = (JsonTokenizer.FILE, SentencePieceTokenizer.FILE, "tokenizer.table")  # in a folder


def load_tokenizer(path: str | Path) -> Tokenizer:
    """From a file of FILES (or of another name that ends like one), or a folder with one.

    A `.model` file is SentencePiece's, or tiktoken's as Llama 3 has it; a `.table` is of windows
    (hat.text.window_table).
    """
    path = Path(path)
    if path.is_dir():
        files = [path / name for name in FILES if (path / name).is_file()]
        if not files:
            raise UserError(f"{path}: none of {', '.join(FILES)} in this folder")
        path = files[0]
    if path.suffix not in (Path(name).suffix for name in FILES):
        missing = "" if path.exists() else "no such file or folder; "
        raise UserError(
            f"{path}: {missing}a tokenizer is a tokenizer.json, a SentencePiece .model or a .table file"
        )
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot read the tokenizer: {error.strerror}") from None
    try:
        if path.suffix == ".json":
            return JsonTokenizer(data.decode())
        if path.suffix == ".table":  # with its compiled loops, which the others do without
            from hat.text.window_table import TableTokenizer, WindowTable

            return TableTokenizer(WindowTable.from_bytes(data))
        if tiktoken_file.is_tiktoken(data):
            alphabet = {byte: character for character, byte in _BYTE_OF.items()}
            return JsonTokenizer(tiktoken_file.to_json(data, alphabet))
        return SentencePieceTokenizer(data)
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a tokenizer.json: it is not UTF-8") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def train_bpe(documents: Iterable[bytes], vocab_size: int) -> JsonTokenizer:
    """A byte-level BPE of exactly `vocab_size` tokens, the 256 bytes among them.

    Trained by the tokenizers library with the GPT-2 pre-tokenizer; invalid UTF-8 is left out of
    the training. UserError where the text has too few pairs for so many tokens.
    """
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    if vocab_size < byte_ids.NUM_BYTES:
        raise UserError(f"a byte-level BPE of {vocab_size} tokens cannot spell the 256 bytes")
    library = tokenizers.Tokenizer(models.BPE())
    library.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=[],
        show_progress=False,
    )
    library.train_from_iterator((d.decode("utf-8", "ignore") for d in documents), trainer)
    if library.get_vocab_size() != vocab_size:
        raise UserError(
            f"the training text yields only {library.get_vocab_size()} tokens of {vocab_size}: "
            "ask for fewer, or train on more text"
        )
    return JsonTokenizer(library.to_str())


def train_sentencepiece(documents: Iterable[bytes], vocab_size: int) -> SentencePieceTokenizer:
    """A unigram SentencePiece model with byte fallback that changes no character.

    Trained on lines; their ends are a token of their own. Lines of 1,000 characters and more, and
    invalid UTF-8, are left out of the training. UserError where the text has too few pieces.
    """
    import io

    import sentencepiece

    model = io.BytesIO()
    texts = (document.decode("utf-8", "ignore") for document in documents)
    lines = [line for text in texts for line in text.split("\n") if 0 < len(line) < 1000]
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(lines), model_writer=model, vocab_size=vocab_size,
            model_type="unigram", byte_fallback=True, normalization_rule_name="identity",
            remove_extra_whitespaces=False, add_dummy_prefix=False, user_defined_symbols=["\n"],
            allow_whitespace_only_pieces=True,  # the indentation of code
            num_threads=2, minloglevel=2,
        )  # fmt: skip
    except (RuntimeError, OSError) as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"no SentencePiece model of {vocab_size} tokens: {reason}") from None
    return SentencePieceTokenizer(model.getvalue())


def _name(kind: str, content: bytes) -> str:
    return f"{kind}:{hashlib.sha256(content).hexdigest()[:16]}"


def _byte_level_alphabet() -> dict[str, int]:
    """The character that byte-level BPE (GPT-2) writes for each byte: itself where it is visible,
    and the code points from 256 on, in order, for the rest."""
    visible = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(b): b for b in visible} | {chr(256 + i): b for i, b in enumerate(hidden)}


_BYTE_OF = _byte_level_alphabet()


def _spell_byte_level(piece: str) -> bytes:
    try:
        return bytes(_BYTE_OF[character] for character in piece)
    except KeyError as error:
        raise UserError(
            f"the bytes of token {piece!r} cannot be known: {error} stands for no byte in "
            "byte-level BPE"
        ) from None


def _spell_piece(piece: str) -> bytes:
    if re.fullmatch("<0x[0-9A-F]{2}>", piece):
        return bytes([int(piece[3:5], 16)])
    return piece.replace(SPACE, " ").encode()


def _mentions(spec: object, kind: str) -> bool:
    """Whether a part of the pre-tokenizer or decoder is of this type."""
    return f'"type": "{kind}"' in json.dumps([spec["pre_tokenizer"], spec["decoder"]])


def _switch_off_changes(spec: dict) -> None:
    """Edits a tokenizer.json so that no space is put before the text, and its characters stay."""
    for part in _steps(spec["pre_tokenizer"], "pretokenizers"):
        if part["type"] == "ByteLevel":
            part["add_prefix_space"] = False
        elif part["type"] == "Metaspace":
            part["prepend_scheme"] = "never"
    changes = {"Prepend", "NFC", "NFD", "NFKC", "NFKD"}
    steps = [p for p in _steps(spec["normalizer"], "normalizers") if p["type"] not in changes]
    spec["normalizer"] = {"type": "Sequence", "normalizers": steps} if steps else None


def _steps(part: dict | None, key: str) -> list[dict]:
    return [] if part is None else part.get(key, [part])
