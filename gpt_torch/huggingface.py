"""GPT-2 in Hugging Face's format: export of a run to a folder that transformers loads, and import of such a folder.

Only names and layout differ: Hugging Face stores the matrices of a block transposed, (in, out), and always has biases.
"""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import save
from safetensors.torch import load_file

from gpt_numpy.config import GPTConfig
from gpt_numpy.workshop.data.tokenizer import (
    MAX_JSON,
    BPETokenizer,
    CharTokenizer,
    Tokenizer,
    tokenizer_from,
)
from gpt_numpy.workshop.errors import UsageError
from gpt_numpy.workshop.io import parse_object, read_limited, write_atomic
from gpt_numpy.workshop.params import parameter_count, parameter_shapes
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.runs.checkpoint import Checkpoint, State
from gpt_numpy.workshop.runs.run_dir import RunDir

Arrays = dict[str, NDArray[Any]]

ACTIVATIONS = {"gelu": "exact", "gelu_new": "tanh", "gelu_pytorch_tanh": "tanh"}  # their names to ours
FIXED = {  # the only values that our model supports
    "model_type": "gpt2",
    "layer_norm_epsilon": 1e-5,
    "scale_attn_weights": True,
    "scale_attn_by_inverse_layer_idx": False,
    "add_cross_attention": False,
}
FINE_TUNING = Recipe(steps=1000, batch_size=8, lr=3e-5, weight_decay=0.1, grad_clip=1.0, eval_every=100)


# ---- names ------------------------------------------------------------------------------------------------------


def their_name(name: str) -> str:
    """tok_emb -> transformer.wte, blocks.3 -> transformer.h.3; other names are the same."""
    if name == "lm_head.weight":
        return name
    for ours, theirs in (("tok_emb.", "wte."), ("pos_emb.", "wpe."), ("blocks.", "h.")):
        if name.startswith(ours):
            name = theirs + name.removeprefix(ours)
    return f"transformer.{name}"


def transpose_if_block_matrix(name: str, weight: NDArray[Any]) -> NDArray[Any]:
    return weight.T if name.startswith("blocks.") and weight.ndim == 2 else weight


# ---- export -----------------------------------------------------------------------------------------------------


def export(checkpoint: Checkpoint, folder: Path) -> None:
    """Writes config, weights and tokenizer for transformers' from_pretrained, and a model card."""
    if folder.is_file() or (folder.exists() and any(folder.iterdir())):
        raise UsageError(f"{folder} is not empty; give another folder")
    config = checkpoint.state.config
    theirs = {}
    for name, shape in parameter_shapes(replace(config, bias=True)).items():
        weight = checkpoint.weights.get(name, np.zeros(shape, np.float32))  # a missing bias is 0
        theirs[their_name(name)] = np.ascontiguousarray(transpose_if_block_matrix(name, weight))
    about_tokenizer = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": config.block_size,
        "clean_up_tokenization_spaces": False,
    }
    files = {
        "model.safetensors": save(theirs, {"format": "pt"}),
        "config.json": json.dumps(their_config(config), indent=2).encode("utf-8"),
        "tokenizer.json": _their_tokenizer(checkpoint.tokenizer).encode("utf-8"),
        "tokenizer_config.json": json.dumps(about_tokenizer, indent=2).encode("utf-8"),
        "README.md": model_card(checkpoint.state, checkpoint.tokenizer).encode("utf-8"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name, content in files.items():
            write_atomic(folder / name, content)
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def model_card(state: State, tokenizer: Tokenizer) -> str:
    """README.md: what the model is, what it was trained on, and how well it does there."""
    config, recipe = state.config, state.recipe
    text = {"shakespeare": "tiny Shakespeare", "synthetic": "synthetic plays", "": "an unknown text"}
    names = [text.get(path) or Path(path).name for path in state.data.split("\n")]
    loss = (
        "not evaluated"
        if state.best_loss is None
        else f"{state.best_loss:.4f} nats per token, at step {state.best_step}"
    )
    rate = f"AdamW {recipe.lr:g}" if recipe.optimizer == "adamw" else f"Muon {recipe.muon_lr:g}, AdamW {recipe.lr:g}"
    rows = {
        "parameters": f"{parameter_count(config):,}",
        "layers, heads, channels": f"{config.n_layer}, {config.n_head}, {config.n_embd}",
        "context": f"{config.block_size} tokens",
        "tokenizer": f"{tokenizer.kind}, {tokenizer.vocab_size:,} tokens",
        "text": f"{', '.join(names)} (SHA-256 {state.digest or 'unknown'})",
        "lowest validation loss": loss,
        "step of these weights": f"{state.step:,} of {recipe.steps:,}",
        "batch": f"{recipe.batch_size} sequences",
        "learning rates": f"{rate}, {recipe.schedule} schedule",
        "dropout, weight decay": f"{config.dropout:g}, {recipe.weight_decay:g}",
        "seed": str(recipe.seed),
    }
    lines = ["---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [gpt2]", "---", ""]
    lines += [f"# A GPT-2-style model of {' and '.join(names)}", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {value.replace('|', ' ')} |" for name, value in rows.items()]
    lines += ["", "```python", "from transformers import AutoTokenizer, GPT2LMHeadModel", ""]
    lines += ['model = GPT2LMHeadModel.from_pretrained(".")', 'tokenizer = AutoTokenizer.from_pretrained(".")', "```"]
    lines += ["", "It continues texts like the one that it was trained on, and knows nothing else.", ""]
    return "\n".join(lines)


def their_config(config: GPTConfig) -> dict[str, Any]:
    return {
        **FIXED,
        "architectures": ["GPT2LMHeadModel"],
        "activation_function": "gelu" if config.gelu == "exact" else "gelu_new",
        "vocab_size": config.vocab_size,
        "n_positions": config.block_size,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_embd": config.n_embd,
        "n_inner": None,
        **dict.fromkeys(("embd_pdrop", "attn_pdrop", "resid_pdrop"), config.dropout),
        "tie_word_embeddings": config.tie_weights,
        "dtype": "float32",
        "bos_token_id": None,
        "eos_token_id": None,
    }


def _their_tokenizer(tokenizer: Tokenizer) -> str:
    """BPE has their format already; characters become words of one character."""
    if not isinstance(tokenizer, CharTokenizer):
        return tokenizer.to_json()
    each = {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False}
    ids = {character: i for i, character in enumerate(tokenizer.characters)}
    return json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
        "pre_tokenizer": each, "post_processor": None, "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": ids, "unk_token": tokenizer.characters[0]},
    }, ensure_ascii=False)  # fmt: skip


# ---- import -----------------------------------------------------------------------------------------------------


def import_folder(folder: Path, run_dir: RunDir) -> State:
    """Creates a run at step 0. It has no text, so training it needs --data. Of the folder's files, config.json, the
    safetensors and the tokenizer are opened; a pickle of the same weights, which could run code, is not."""
    _refuse_custom_code(folder)
    config = _our_config(_read(folder / "config.json"), folder)
    tokenizer = _our_tokenizer(folder)
    if tokenizer.vocab_size > config.vocab_size:
        raise UsageError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} tokens, the model only {config.vocab_size}"
        )
    weights = _our_weights(folder, config)
    state = State(config, replace(FINE_TUNING, tokenizer=tokenizer.kind), data="", digest="")
    run_dir.write_config({"command": "gpt-torch import", "name": run_dir.folder.resolve().name, "from": str(folder)})
    run_dir.save_latest(Checkpoint(state, tokenizer, weights))
    return state


def _refuse_custom_code(folder: Path) -> None:
    """A model that needs its own code is not this GPT-2."""
    for name in ("config.json", "tokenizer_config.json"):
        if (folder / name).exists() and "auto_map" in _read(folder / name):
            raise UsageError(f"{folder / name} requires custom code (auto_map), which is not supported")


def _our_config(values: dict[str, Any], folder: Path) -> GPTConfig:
    for name, expected in FIXED.items():
        if (found := values.get(name, expected)) != expected:
            raise UsageError(f"{folder}: {name} is {found!r}; only {expected!r} is supported")
    if (activation := str(values.get("activation_function", "gelu_new"))) not in ACTIVATIONS:
        raise UsageError(f"{folder}: activation_function is {activation!r}; supported are {', '.join(ACTIVATIONS)}")
    try:
        config = GPTConfig(
            vocab_size=values.get("vocab_size", 50257),
            block_size=values.get("n_positions", 1024),
            n_layer=values.get("n_layer", 12),
            n_head=values.get("n_head", 12),
            n_embd=values.get("n_embd", 768),
            dropout=values.get("resid_pdrop", 0.1),
            tie_weights=values.get("tie_word_embeddings", True),
            gelu=ACTIVATIONS[activation],  # type: ignore[arg-type]
        )
    except ValueError as error:
        raise UsageError(f"{folder / 'config.json'}: {error}") from None
    if values.get("n_inner") not in (None, 4 * config.n_embd):
        raise UsageError(f"{folder}: n_inner is {values['n_inner']}; only 4 * n_embd is supported")
    return config


def _our_weights(folder: Path, config: GPTConfig) -> Arrays:
    theirs = {name.removeprefix("transformer."): weight for name, weight in _their_weights(folder).items()}
    if config.n_layer > len(theirs):
        raise UsageError(f"{folder}: {config.n_layer} blocks, but only {len(theirs)} weights")
    weights = {}
    for name, shape in parameter_shapes(config).items():
        key = their_name(name).removeprefix("transformer.")
        if key not in theirs:
            raise UsageError(f"{folder}: {key} is missing from the weights")
        weight = transpose_if_block_matrix(name, theirs[key])
        if weight.shape != shape:
            raise UsageError(f"{folder}: {key} has the wrong shape, {theirs[key].shape}")
        if not np.isfinite(weight).all():
            raise UsageError(f"{folder}: {key} contains NaN or infinity")
        weights[name] = np.ascontiguousarray(weight)
    if config.tie_weights:
        weights["lm_head.weight"] = weights["tok_emb.weight"]
    return weights


def _their_weights(folder: Path) -> Arrays:
    """From one file, or, for large models, from those listed in an index."""
    index = folder / "model.safetensors.index.json"
    names = {"model.safetensors"}
    if index.exists():
        files = _read(index).get("weight_map")
        names = {str(name) for name in files.values()} if isinstance(files, dict) else set()
        if not names or not all(re.fullmatch(r"[\w.-]+\.safetensors", name) for name in names):
            raise UsageError(f"{index} does not list safetensors files of this folder")
    elif not (folder / "model.safetensors").exists() and (pickle := next(folder.glob("*.bin"), None)):
        raise UsageError(f"{pickle} is a pickle, which can run code when it is opened; save it as model.safetensors")
    found: Arrays = {}
    for name in sorted(names):
        try:
            if (folder / name).exists() and not (folder / name).is_file():
                raise ValueError("it is not a file")
            read = load_file(folder / name)
            found |= {key: tensor.float().numpy() for key, tensor in read.items()}
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, SafetensorError) as error:
            raise UsageError(f"{folder / name} cannot be read: {error}") from None
    return found


def _our_tokenizer(folder: Path) -> Tokenizer:
    path = folder / "tokenizer.json"
    if not path.exists() and (folder / "vocab.json").exists():
        for part in ("vocab.json", "merges.txt"):
            _bytes(folder / part)
        return BPETokenizer.from_files(folder / "vocab.json", folder / "merges.txt")
    model = _read(path).get("model")
    if isinstance(model, dict) and model.get("type") == "WordLevel" and isinstance(model.get("vocab"), dict):
        characters = sorted(set("".join(model["vocab"])))
        if model["vocab"] == {character: i for i, character in enumerate(characters)}:  # an export of ours
            return CharTokenizer(characters)
    try:
        return tokenizer_from(_bytes(path))
    except ValueError as error:
        raise UsageError(f"{path} is not a tokenizer: {error}") from None


# ---- files ------------------------------------------------------------------------------------------------------


def _read(path: Path) -> dict[str, Any]:
    try:
        return parse_object(_bytes(path))
    except ValueError as error:
        raise UsageError(f"{path} cannot be read: {error}") from None


def _bytes(path: Path) -> bytes:
    try:
        return read_limited(path, MAX_JSON)
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} cannot be read: {error}") from None
