"""Tokenizers with the pretokenizers of well-known families, trained on a few lines."""

from __future__ import annotations

import functools
import io
import json

from hat.text.tokenizers import JsonTokenizer, SentencePieceTokenizer, Tokenizer

TEXT = (
    "I don't think we'll see 12345 dogs, they're    gone;  it's 3.14159\n\n\tif x == 'lld':\r\n"
    "        return self.value + 10000  # naïve DON'T\n" * 3
    + "色は匂へど 散りぬるを 我が世誰ぞ 你好，世界！ 👩‍👩‍👧 🏳️‍🌈 Привет мир 123 456 7890 ½ x²\n" * 2
    + "the theatre there hello world's  'tis   \n   \n the them 'll 've  end."
)

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
EXPRESSIONS = {
    "gpt2": None,  # ByteLevel's own
    "cl100k": _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+",
    "llama3": _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "qwen2": _CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    "o200k": r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    # Digits in threes from the right.
    "rightward": r" ?\p{L}+|\d{1,3}(?=(?:\d{3})*(?!\d))|[^\s\p{L}\d]+|\s+(?!\S)|\s+",
}
FAMILIES = [*EXPRESSIONS, "deepseek", "starcoder", "llama3-whole", "qwen-added", "fallback",
            "sentencepiece", "unigram"]


@functools.cache
def tokenizer(family: str, size: int = 340) -> Tokenizer:
    """A tokenizer of about `size` tokens of the family."""
    if family == "fallback":
        return JsonTokenizer(_fallback(size))
    if family == "sentencepiece":
        return SentencePieceTokenizer(_sentencepiece(size))
    if family == "unigram":
        return SentencePieceTokenizer(_sentencepiece(size, "unigram"))
    import tokenizers
    from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

    def split(source):
        return pre_tokenizers.Split(Regex(source), "isolated")

    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if family == "gpt2":
        steps = [gpt2]
    elif family == "starcoder":
        steps = [pre_tokenizers.Digits(individual_digits=True), gpt2]
    elif family == "deepseek":
        steps = [split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"),
                 split(r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?"
                       r"[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"), level]
    else:
        base = {"llama3-whole": "llama3", "qwen-added": "qwen2"}.get(family, family)
        steps = [split(EXPRESSIONS[base]), level]
    library = tokenizers.Tokenizer(models.BPE(ignore_merges=family == "llama3-whole"))
    library.pre_tokenizer = pre_tokenizers.Sequence(steps)
    library.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|end_of_text|>"], show_progress=False,
    )
    library.train_from_iterator([TEXT], trainer)
    spec = json.loads(library.to_str())
    if family == "llama3-whole":  # tokens that no merge makes, but that are whole words
        for text in ("thea", "Ġdoo", "hel", "12"):
            spec["model"]["vocab"].setdefault(text, len(spec["model"]["vocab"]))
    if family == "qwen-added":
        flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False)
        for text in ("<th>", "<theme>"):
            spec["added_tokens"].append({"id": size, "content": text, "special": False, **flags})
            size += 1
    return JsonTokenizer(json.dumps(spec))


@functools.cache
def with_fill_in() -> Tokenizer:
    """That of gpt2, with the special tokens of fill-in-the-middle."""
    spec = json.loads(tokenizer("gpt2")._text)
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    size = len(spec["model"]["vocab"])
    for number, part in enumerate(("prefix", "suffix", "middle")):
        spec["added_tokens"].append({"id": size + number, "content": f"<|fim_{part}|>", **flags})
    return JsonTokenizer(json.dumps(spec))


def _sentencepiece(size: int, model_type: str = "bpe") -> bytes:
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT.splitlines()), model_writer=out, vocab_size=size + 60,
        model_type=model_type, byte_fallback=True, character_coverage=0.98, minloglevel=2,
        hard_vocab_limit=False, normalization_rule_name="identity",
    )
    return out.getvalue()


def _fallback(size: int) -> str:
    """The Llama-2 layout of tokenizer.json over the merges of a SentencePiece model."""
    model = SentencePieceTokenizer(_sentencepiece(size))
    _, pieces = model.pieces()
    vocabulary = {piece.text: token for token, piece in enumerate(pieces)}
    merges = []
    for piece in pieces[3 + 256 :]:
        ways = [(piece.text[:i], piece.text[i:]) for i in range(1, len(piece.text))]
        merges += [" ".join(way) for way in ways if way[0] in vocabulary and way[1] in vocabulary]
    added = [
        {"id": i, "content": pieces[i].text, "special": True, "single_word": False,
         "lstrip": False, "rstrip": False, "normalized": False} for i in range(3)
    ]
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
        "pre_tokenizer": None, "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": [{"type": "ByteFallback"}, {"type": "Fuse"}]},
        "model": {"type": "BPE", "dropout": None, "unk_token": "<unk>",
                  "continuing_subword_prefix": None, "end_of_word_suffix": None, "fuse_unk": True,
                  "byte_fallback": True, "vocab": vocabulary, "merges": merges},
    })
