"""The subword Llama against the classes of transformers that it must be able to import."""

from __future__ import annotations

import jax
import numpy as np
import pytest
import torch
import transformers

from hat.models.layers import RopeScaling, StackConfig
from hat.models.llama import LlamaConfig
from tests.models import toy

# Two float32 programs, a few dozen dependent roundings, logits of size 1. Measured: 2e-6 at most.
TOLERANCE = 2e-5

NUM_TOKENS = 40
T = 24
STACK = dict(hidden_size=32, num_layers=3, num_heads=4, intermediate_size=48, num_kv_heads=2)
SHAPE = dict(
    vocab_size=NUM_TOKENS,
    hidden_size=32,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    intermediate_size=48,
    attn_implementation="eager",
)
SCALING = dict(low_freq_factor=1.0, high_freq_factor=4.0, factor=8.0)

MODELS = {
    "llama": (
        StackConfig(**STACK, norm_eps=1e-2, rope_theta=300.0),
        "Llama",
        dict(rms_norm_eps=1e-2, rope_theta=300.0),
    ),
    "llama 3.1, tied": (
        StackConfig(
            **STACK,
            rope_theta=100.0,
            rope_scaling=RopeScaling(**SCALING, original_max_positions=16),
        ),
        "Llama",
        dict(
            rms_norm_eps=1e-5,
            rope_theta=100.0,
            rope_scaling=dict(
                **SCALING, original_max_position_embeddings=16, rope_type="llama3"
            ),
            tie_word_embeddings=True,
        ),
    ),
    "qwen 3, head size": (
        StackConfig(**STACK, head_dim=6, qk_norm=True),
        "Qwen3",
        dict(rms_norm_eps=1e-5, rope_theta=10_000.0, head_dim=6),
    ),
    "qwen 2, biases": (
        StackConfig(**STACK, qkv_bias=True),
        "Qwen2",
        dict(rms_norm_eps=1e-5, rope_theta=10_000.0),
    ),
    "mistral, window": (
        StackConfig(**STACK, window=5),
        "Mistral",
        dict(rms_norm_eps=1e-5, rope_theta=10_000.0, sliding_window=5, head_dim=8),
    ),
}


def build(stack: StackConfig, class_name: str, arguments: dict):
    """Our model, and theirs with every parameter drawn at random."""
    theirs_config = getattr(transformers, f"{class_name}Config")(**SHAPE, **arguments)
    theirs = getattr(transformers, f"{class_name}ForCausalLM")(theirs_config).eval()
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            matrix = weight.ndim == 2
            weight.normal_(0.0 if matrix or "bias" in name else 1.0, 0.2)
    tied = arguments.get("tie_word_embeddings", False)
    config = LlamaConfig(stack, NUM_TOKENS, tie_embeddings=tied, dtype="float32")
    return config.build(), theirs


def copied(model, theirs) -> dict:
    """Their parameters in our places; what has no counterpart (special ids) is left random."""
    weights = {name: w.detach().numpy() for name, w in theirs.state_dict().items()}
    used = set()

    def take(name):
        used.add(name)
        return weights[name]

    def layers(name, *, transpose=False):
        found = [take(f"model.layers.{i}.{name}") for i in range(STACK["num_layers"])]
        return np.stack([w.T if transpose else w for w in found])

    params = jax.tree.map(np.array, toy.random_params(model))
    params["embedding"]["table"][:NUM_TOKENS] = take("model.embed_tokens.weight")
    params["head"]["norm"]["scale"] = take("model.norm.weight")
    take("lm_head.weight")
    if "projection" in params["head"]:
        params["head"]["projection"]["kernel"][:, :NUM_TOKENS] = weights["lm_head.weight"].T
    block = params["backbone"]
    block["attention_norm"]["scale"] = layers("input_layernorm.weight")
    block["mlp_norm"]["scale"] = layers("post_attention_layernorm.weight")
    for name in "qkvo":
        ours, prefix = block["attention"][name], f"self_attn.{name}_proj"
        ours["kernel"] = layers(f"{prefix}.weight", transpose=True)
        if "bias" in ours:
            ours["bias"] = layers(f"{prefix}.bias")
    for name in ("q_norm", "k_norm"):
        if name in block["attention"]:
            block["attention"][name]["scale"] = layers(f"self_attn.{name}.weight")
    for name in ("gate", "up", "down"):
        block["mlp"][name]["kernel"] = layers(f"mlp.{name}_proj.weight", transpose=True)
    assert used == set(weights)
    return params


def token_batch(rows) -> dict[str, np.ndarray]:
    """Rows of token lists; a token i spells i % 4 + 1 bytes, the special ids none."""
    names = ("tokens", "segment", "position", "token_bytes")
    batch = {name: np.zeros((len(rows), T), np.int32) for name in names}
    batch["tokens"][:] = NUM_TOKENS + 2  # PAD
    for b, documents in enumerate(rows):
        t = 0
        for s, tokens in enumerate(documents, start=1):
            span = slice(t, t + len(tokens))
            batch["tokens"][b, span] = tokens
            batch["segment"][b, span] = s
            batch["position"][b, span] = np.arange(len(tokens))
            batch["token_bytes"][b, span] = [i % 4 + 1 if i < NUM_TOKENS else 0 for i in tokens]
            t += len(tokens)
    return batch


@pytest.mark.parametrize("name", MODELS)
def test_logits_and_nats_equal_transformers(name):
    """Documents packed two and three to a row here, each alone there."""
    model, theirs = build(*MODELS[name])
    params = copied(model, theirs)
    rng = np.random.default_rng(0)
    lengths = [[9, 13], [5, 8, 11]]
    rows = [[rng.integers(0, NUM_TOKENS, n).tolist() for n in row] for row in lengths]
    batch = token_batch(rows)

    def run(params, batch):
        return model.logits(params, batch), model.nats(params, batch)[0]

    logits, nats = toy.jit(run)(params, batch)
    assert logits.dtype == nats.dtype == np.float32
    assert (np.asarray(logits)[..., NUM_TOKENS] <= -1e30).all()  # BOS is never predicted
    for b, row in enumerate(rows):
        t = 0
        for tokens in row:
            with torch.no_grad():
                expected = theirs(torch.tensor([tokens])).logits[0]
            place = slice(t, t + len(tokens))
            t += len(tokens)
            ours = np.asarray(logits)[b, place]
            np.testing.assert_allclose(ours[:, :NUM_TOKENS], expected, rtol=0, atol=TOLERANCE)
            # Our softmax is over one id more, the end of text.
            end = torch.tensor(ours[:, NUM_TOKENS + 1 : NUM_TOKENS + 2])
            surprise = torch.nn.functional.cross_entropy(
                torch.cat([expected, end], dim=1)[:-1], torch.tensor(tokens[1:]), reduction="none"
            )
            np.testing.assert_allclose(nats[b, place][:-1], surprise, rtol=0, atol=2 * TOLERANCE)
            assert nats[b, place][-1] == 0


def test_sums_count_bytes_of_the_predicted_tokens():
    model, _ = build(*MODELS["llama"])
    params = toy.random_params(model)
    bos, eot = NUM_TOKENS, NUM_TOKENS + 1
    documents = [[bos, 3, 7, 2, eot], [bos, 8, 9, eot], [bos, 4, 4]]  # whole, whole, a piece
    batch = token_batch([documents[:2], documents[2:]])
    nats, sums = toy.jit(lambda p, b: (model.nats(p, b)[0], model.loss(p, b)))(params, batch)
    assert sums.targets == 4 + 3 + 2
    assert sums.bytes == (4 + 4 + 3) + (1 + 2) + (1 + 1)
    assert sums.words == 5 + 4 + 3
    np.testing.assert_allclose(sums.nats, np.asarray(nats, np.float64).sum(), rtol=1e-6)
    assert (np.asarray(nats) > 0).sum() == sums.targets
