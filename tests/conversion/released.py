"""The released HAT in torch, from its description: names, shapes and the forward pass.

Nothing here comes from hat/: bytes in, logits over 256 bytes out, one document, the decoder's
cross-attention in full, over one key with rotary positions on it (arXiv 2603.15953).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file

EOT = 192


def config(*, qk_norm: bool) -> dict:
    """A small config.json with the published fields; every part differs from every other."""

    def stack(**fields):
        norm = dict(key_query_norm=qk_norm, key_query_norm_per_head=qk_norm)
        return dict(rope_scaling=None, mlp_bias=False, use_cache=True, is_neox_style=True,
                    max_position_embeddings=256, **norm, **fields)

    def cross(**fields):
        return dict(word_window_size=1, key_query_norm=qk_norm, key_query_norm_per_head=qk_norm,
                    **fields)

    encoder = stack(
        vocab_size=256, hidden_size=16, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, rms_norm_eps=1e-2, intermediate_size=24, rope_theta=100.0,
        sliding_window=7,
        cross_attention_config=cross(
            hidden_size_q=24, hidden_size_kv=16, hidden_size=32, num_attention_heads=4,
            attention_num_kv_heads=4,
        ),
    )  # fmt: skip
    backbone = stack(
        vocab_size=0, hidden_size=24, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, rms_norm_eps=1e-3, intermediate_size=40, rope_theta=500.0,
        sliding_window=None,
    )  # fmt: skip
    backbone["rope_scaling"] = dict(
        rope_type="llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
        original_max_position_embeddings=64,
    )  # fmt: skip
    decoder = stack(
        vocab_size=256, hidden_size=16, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, rms_norm_eps=1e-1, intermediate_size=20, rope_theta=50.0,
        sliding_window=9, cross_attn_every_layer=True,
        cross_attention_config=cross(
            hidden_size_q=16, hidden_size_kv=24, hidden_size=16, num_attention_heads=4,
            attention_num_kv_heads=4,
        ),
    )  # fmt: skip
    return dict(
        model_type="hierarchical_autoregressive_transformer",
        special_token_dict={"<|eot_id|>": EOT},
        eos_token_id=EOT, max_word_size=100, sliding_window=7, max_position_embeddings=256,
        architectures=["HATForCausalLM"], torch_dtype="float32", transformers_version="4.46.3",
        encoder_config=encoder, backbone_config=backbone, decoder_config=decoder,
    )  # fmt: skip


def shapes(config: dict, *, norms=("norm_query", "norm_key")) -> dict[str, tuple[int, ...]]:
    """Every tensor; norms: what the QK-norms inside self-attention are called."""
    found = {}

    def layer(prefix, stack):
        d, inner = stack["hidden_size"], stack["intermediate_size"]
        size = d // stack["num_attention_heads"]
        groups = stack["num_key_value_heads"] * size
        for name, rows in (("q", d), ("k", groups), ("v", groups)):
            found[f"{prefix}.self_attn.{name}_proj.weight"] = (rows, d)
        found[f"{prefix}.self_attn.o_proj.weight"] = (d, d)
        for name in norms if stack["key_query_norm"] else ():
            found[f"{prefix}.self_attn.{name}.weight"] = (size,)
        found[f"{prefix}.mlp.gate_proj.weight"] = (inner, d)
        found[f"{prefix}.mlp.up_proj.weight"] = (inner, d)
        found[f"{prefix}.mlp.down_proj.weight"] = (d, inner)
        for name in ("input_layernorm", "post_attention_layernorm"):
            found[f"{prefix}.{name}.weight"] = (d,)

    def cross(prefix, fields):
        q, kv, hidden = (fields[f"hidden_size{part}"] for part in ("_q", "_kv", ""))
        found[f"{prefix}.q_proj.weight"] = (hidden, q)
        found[f"{prefix}.k_proj.weight"] = found[f"{prefix}.v_proj.weight"] = (hidden, kv)
        found[f"{prefix}.o_proj.weight"] = (q, hidden)
        for name in ("norm_query", "norm_key") if fields["key_query_norm"] else ():
            found[f"{prefix}.{name}.weight"] = (hidden // fields["num_attention_heads"],)

    encoder, backbone, decoder = (config[f"{p}_config"] for p in ("encoder", "backbone", "decoder"))
    d, wide = encoder["hidden_size"], backbone["hidden_size"]
    found["encoder.embedding_layer.weight"] = (256, d)
    for i in range(encoder["num_hidden_layers"]):
        layer(f"encoder.layers.{i}", encoder)
    found["encoder_connector.latent_query"] = (1, 1, wide)
    cross("encoder_connector.cross_attention_encoder_connector", encoder["cross_attention_config"])
    for i in range(backbone["num_hidden_layers"]):
        layer(f"backbone.layers.{i}", backbone)
    found["decoder_connector.first_word_embedding"] = (1, 1, wide)
    for i in range(decoder["num_hidden_layers"]):
        prefix = f"decoder.decoder_layers.{i}"
        layer(f"{prefix}.llama_layer", decoder)
        cross(f"{prefix}.cross_attention", decoder["cross_attention_config"])
        found[f"{prefix}.query_norm.weight"] = (d,)
        found[f"{prefix}.kv_norm.weight"] = (wide,)
    found["layer_norm.weight"] = (d,)
    found["lm_head.weight"] = (256, d)
    return found


def random_tensors(config: dict, dtype=torch.float32, **names) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)

    def draw(name, shape):
        center = 1.0 if "norm" in name else 0.0
        return (center + 0.25 * torch.randn(shape, generator=generator)).to(dtype)

    return {name: draw(name, shape) for name, shape in shapes(config, **names).items()}


def save(folder: Path, config: dict, tensors: dict[str, torch.Tensor]) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors")
    return folder


def forward(config: dict, weights: dict[str, torch.Tensor], words: list[bytes]) -> torch.Tensor:
    """Logits [T, 256] of one document; words: its bytes (192 is the end of text), in words."""
    model = _Model(config, {name: w.double() for name, w in weights.items()})
    return model(words)


class _Model:
    def __init__(self, config, weights):
        self.config, self.weights = config, weights

    def __call__(self, words: list[bytes]) -> torch.Tensor:
        w, config = self.weights, self.config
        encoder, backbone, decoder = (
            config[f"{part}_config"] for part in ("encoder", "backbone", "decoder")
        )
        ids = torch.tensor(list(b"".join(words)))
        x = w["encoder.embedding_layer.weight"][ids]
        x = self.stack(x, encoder, "encoder.layers.{}")

        # Pooling: the one query, at the index of its word, over the word's bytes, at theirs.
        cross, prefix = (
            encoder["cross_attention_config"],
            "encoder_connector.cross_attention_encoder_connector",
        )
        pooled = []
        for n, span in enumerate(self.spans(words)):
            query = w["encoder_connector.latent_query"][0]
            pooled.append(self.cross(
                query, torch.tensor([n]), x[span], torch.tensor(list(span)), cross, encoder, prefix
            ))  # fmt: skip
        y = self.stack(torch.cat(pooled), backbone, "backbone.layers.{}")

        guides = torch.cat([w["decoder_connector.first_word_embedding"][0], y[:-1]])
        cross = decoder["cross_attention_config"]
        for i in range(decoder["num_hidden_layers"]):
            prefix, eps = f"decoder.decoder_layers.{i}", decoder["rms_norm_eps"]
            query = self.norm(x, f"{prefix}.query_norm.weight", eps)
            key = self.norm(guides, f"{prefix}.kv_norm.weight", eps)
            added = torch.zeros_like(x)
            for n, span in enumerate(self.spans(words)):
                added[span] = self.cross(
                    query[span], torch.tensor(list(span)), key[n : n + 1], torch.tensor([n]),
                    cross, decoder, f"{prefix}.cross_attention",
                )  # fmt: skip
            x = self.layer(x + added, decoder, f"{prefix}.llama_layer")
        x = self.norm(x, "layer_norm.weight", decoder["rms_norm_eps"])
        return x @ w["lm_head.weight"].T

    @staticmethod
    def spans(words: list[bytes]) -> Iterator[range]:
        start = 0
        for word in words:
            yield range(start, start + len(word))
            start += len(word)

    def stack(self, x, fields, name):
        for i in range(fields["num_hidden_layers"]):
            x = self.layer(x, fields, name.format(i))
        return x

    def layer(self, x, fields, prefix):
        eps, T = fields["rms_norm_eps"], len(x)
        attention = f"{prefix}.self_attn"
        heads, groups = fields["num_attention_heads"], fields["num_key_value_heads"]
        h = self.norm(x, f"{prefix}.input_layernorm.weight", eps)
        q = self.project(h, f"{attention}.q_proj", heads)
        k = self.project(h, f"{attention}.k_proj", groups)
        v = self.project(h, f"{attention}.v_proj", groups)
        if fields["key_query_norm"]:
            names = ("norm_query", "norm_key")
            if f"{attention}.q_norm.weight" in self.weights:
                names = ("q_norm", "k_norm")
            q = self.norm(q, f"{attention}.{names[0]}.weight", eps)
            k = self.norm(k, f"{attention}.{names[1]}.weight", eps)
        place = torch.arange(T)
        q, k = self.rotate(q, place, fields), self.rotate(k, place, fields)
        apart = place[:, None] - place[None, :]
        seen = (apart >= 0) & (apart < (fields["sliding_window"] or T))
        out = self.attend(q, k, v, seen)
        x = x + out @ self.weights[f"{attention}.o_proj.weight"].T
        h = self.norm(x, f"{prefix}.post_attention_layernorm.weight", eps)
        gate, up, down = (
            self.weights[f"{prefix}.mlp.{part}_proj.weight"].T for part in ("gate", "up", "down")
        )
        return x + (torch.nn.functional.silu(h @ gate) * (h @ up)) @ down

    def cross(self, query, query_place, keys, key_place, cross, fields, prefix):
        """Every query [Q, .] over all keys [S, .], rotary positions by the table of the byte
        stack that `fields` describes."""
        heads = cross["num_attention_heads"]
        q = self.project(query, f"{prefix}.q_proj", heads)
        k = self.project(keys, f"{prefix}.k_proj", heads)
        v = self.project(keys, f"{prefix}.v_proj", heads)
        if cross["key_query_norm"]:
            q = self.norm(q, f"{prefix}.norm_query.weight", fields["rms_norm_eps"])
            k = self.norm(k, f"{prefix}.norm_key.weight", fields["rms_norm_eps"])
        q = self.rotate(q, query_place, fields)
        k = self.rotate(k, key_place, fields)
        seen = torch.ones(len(query), len(keys), dtype=torch.bool)
        return self.attend(q, k, v, seen) @ self.weights[f"{prefix}.o_proj.weight"].T

    def project(self, x, name, heads):
        return (x @ self.weights[f"{name}.weight"].T).reshape(len(x), heads, -1)

    @staticmethod
    def attend(q, k, v, seen):
        """q [Q, H, K], k and v [S, G, K], seen [Q, S] -> [Q, H * K]."""
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
        scores = torch.einsum("qhk,shk->hqs", q, k) / math.sqrt(q.shape[-1])
        weights = scores.masked_fill(~seen, -math.inf).softmax(-1)
        return torch.einsum("hqs,shk->qhk", weights, v).reshape(len(q), -1)

    def norm(self, x, name, eps):
        return x / (x.pow(2).mean(-1, keepdim=True) + eps).sqrt() * self.weights[name]

    @staticmethod
    def rotate(x, place, fields):
        """x [T, H, K] at positions [T], pairs (i, i + K / 2)."""
        size = x.shape[-1]
        angles = []
        for i in range(size // 2):
            frequency = fields["rope_theta"] ** (-2 * i / size)
            if rule := fields["rope_scaling"]:
                length = 2 * math.pi / frequency
                low = rule["original_max_position_embeddings"] / rule["low_freq_factor"]
                high = rule["original_max_position_embeddings"] / rule["high_freq_factor"]
                if length > low:
                    frequency /= rule["factor"]
                elif length > high:
                    smooth = rule["original_max_position_embeddings"] / length
                    smooth -= rule["low_freq_factor"]
                    smooth /= rule["high_freq_factor"] - rule["low_freq_factor"]
                    frequency = (1 - smooth) * frequency / rule["factor"] + smooth * frequency
            angles.append(place * frequency)
        angles = torch.stack(angles, -1).double()[:, None]
        a, b = x.chunk(2, -1)
        cos, sin = angles.cos(), angles.sin()
        return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)
