"""Hugging Face's format: exported runs compute the same in transformers, and its models can be imported."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from gpt_numpy import GPT
from gpt_numpy.cli import CLI as BY_HAND
from gpt_numpy.workshop.cli.engine_cli import EngineCLI
from gpt_numpy.workshop.cli.main import run
from gpt_numpy.workshop.data.tokenizer import BPETokenizer, CharTokenizer
from gpt_numpy.workshop.recipes import Recipe
from gpt_numpy.workshop.runs.run_dir import RunDir
from gpt_torch.cli import CLI as IN_TORCH
from gpt_torch.huggingface import _our_config
from tests.workshop.test_commands import PLAY, TINY

pytestmark = pytest.mark.together("transformers")

SIZES = {"vocab_size": 65, "n_positions": 8, "n_embd": 8, "n_layer": 2, "n_head": 2}
LETTERS = "".join(chr(48 + i) for i in range(65))


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "play.txt").write_text(PLAY, encoding="utf-8")
    return tmp_path


def logits_of(folder: str, ids: np.ndarray) -> np.ndarray:
    """From the best checkpoint of a run, by our NumPy model in float64."""
    checkpoint = RunDir(Path(folder)).checkpoint("best")
    model = GPT(checkpoint.state.config, dtype=np.float64)
    model.load_state_dict({name: array.astype(np.float64) for name, array in checkpoint.weights.items()})
    logits: np.ndarray = model.eval()(ids)[0].array
    return logits


def their_logits(model: Any, ids: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        logits: np.ndarray = model.double().eval()(torch.from_numpy(ids)).logits.numpy()
    return logits


def their_model(folder: Path, seed: int = 0, **settings: Any) -> Any:
    """Saves a GPT-2 of transformers with weights large enough for every part to matter, and a tokenizer."""
    import transformers  # takes seconds, which other tests need not wait for

    torch.manual_seed(seed)
    none = {"bos_token_id": None, "eos_token_id": None}
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**{**SIZES, **none, **settings}))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(CharTokenizer(LETTERS).to_json(), encoding="utf-8")
    return model


# ---- export -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flags", [[], ["--tie-weights"], ["--no-bias"], ["--gelu", "tanh"]], ids=str)
def test_exported_run_has_equal_logits_in_transformers(here: Path, flags: list[str]) -> None:
    import transformers

    assert run(BY_HAND, ["train", "--out", "runs/one", *TINY, "--lr", "0.3", "--warmup", "0", *flags]) == 0
    assert run(IN_TORCH, ["export", "there"]) == 0
    model = transformers.AutoModelForCausalLM.from_pretrained("there")
    assert type(model).__name__ == "GPT2LMHeadModel"
    ids = np.random.default_rng(0).integers(0, model.config.vocab_size, (3, 8))
    np.testing.assert_allclose(logits_of("runs/one", ids), their_logits(model, ids), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [["char"], ["bpe", "--vocab-size", "300"]], ids=str)
def test_exported_tokenizer_works_in_transformers(here: Path, kind: list[str]) -> None:
    import transformers

    assert run(BY_HAND, ["train", "--out", "runs/one", *TINY, "--tokenizer", *kind]) == 0
    assert run(IN_TORCH, ["export", "there"]) == 0
    theirs = transformers.AutoTokenizer.from_pretrained("there")
    ours = RunDir(here / "runs" / "one").checkpoint("best").tokenizer
    text = "ROMEO, who says 9:\nfarewell!\n"
    assert theirs(text)["input_ids"] == ours.encode(text).tolist()
    assert theirs.decode(theirs(text)["input_ids"]) == text
    assert not theirs.clean_up_tokenization_spaces  # which would remove spaces from English texts


def test_model_card_has_the_figures_of_the_run(here: Path) -> None:
    assert run(BY_HAND, ["train", "--out", "runs/one", *TINY]) == 0
    assert run(IN_TORCH, ["export", "there"]) == 0
    card = Path("there/README.md").read_text(encoding="utf-8")
    state = RunDir(Path("runs/one")).checkpoint("best").state
    assert f"| lowest validation loss | {state.best_loss:.4f} nats per token, at step {state.best_step} |" in card
    assert f"| text | play.txt (SHA-256 {state.digest}) |" in card
    assert str(here) not in card
    front, name, *_ = card.removeprefix("---\n").split("\n---\n")
    assert front == "library_name: transformers\npipeline_tag: text-generation\ntags: [gpt2]"
    assert "# A GPT-2-style model of play.txt" in name


def test_export_and_import_round_trip(here: Path) -> None:
    assert run(BY_HAND, ["train", "--out", "runs/one", *TINY]) == 0
    assert run(IN_TORCH, ["export", "there"]) == 0
    assert run(IN_TORCH, ["import", "there", "--out", "runs/again"]) == 0
    first, again = (RunDir(here / "runs" / name).checkpoint("best") for name in ("one", "again"))
    assert again.state.config == first.state.config
    assert again.tokenizer.to_json() == first.tokenizer.to_json()
    assert all(np.array_equal(array, again.weights[name]) for name, array in first.weights.items())


# ---- import -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [{}, {"tie_word_embeddings": False}, {"activation_function": "gelu"}, {"activation_function": "gelu_pytorch_tanh"}],
    ids=str,
)
def test_imported_model_has_equal_logits(here: Path, settings: dict[str, Any]) -> None:
    model = their_model(here / "there", **settings)
    assert run(IN_TORCH, ["import", "there", "--out", "runs/one"]) == 0
    ids = np.random.default_rng(0).integers(0, 65, (3, 8))
    np.testing.assert_allclose(logits_of("runs/one", ids), their_logits(model, ids), rtol=1e-9, atol=1e-9)


def test_original_gpt_2_names_are_imported(here: Path) -> None:
    """Its names have no prefix, and its file contains the causal masks."""
    their_model(here / "there")
    path = here / "there" / "model.safetensors"
    old = {name.removeprefix("transformer."): array for name, array in load_file(path).items()}
    old |= {f"h.{i}.attn.bias": np.tril(np.ones((1, 1, 8, 8), np.float32)) for i in range(2)}
    assert run(IN_TORCH, ["import", "there", "--out", "runs/new-names"]) == 0
    save_file(old, path)
    assert run(IN_TORCH, ["import", "there", "--out", "runs/old-names"]) == 0
    ids = np.arange(8)[None]
    assert np.array_equal(logits_of("runs/new-names", ids), logits_of("runs/old-names", ids))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_weights_of_lower_precision_are_imported(here: Path, dtype: torch.dtype) -> None:
    model = their_model(here / "there")
    model.to(dtype).save_pretrained(here / "there")
    assert run(IN_TORCH, ["import", "there", "--out", "runs/one"]) == 0
    ids = np.arange(8)[None]
    np.testing.assert_allclose(logits_of("runs/one", ids), their_logits(model, ids), rtol=1e-9, atol=1e-9)


def test_sharded_weights_are_imported(here: Path) -> None:
    model = their_model(here / "there")
    (here / "there" / "model.safetensors").unlink()
    model.save_pretrained(here / "there", max_shard_size="4KB")
    assert (here / "there" / "model.safetensors.index.json").exists()
    assert run(IN_TORCH, ["import", "there", "--out", "runs/one"]) == 0
    ids = np.arange(8)[None]
    np.testing.assert_allclose(logits_of("runs/one", ids), their_logits(model, ids), rtol=1e-9, atol=1e-9)


def test_redundant_settings_and_files_are_accepted(here: Path) -> None:
    """An explicit n_inner of the default size, and vocab.json beside tokenizer.json."""
    their_model(here / "there", n_inner=4 * 8)
    (here / "there" / "vocab.json").write_text("{}", encoding="utf-8")
    assert run(IN_TORCH, ["import", "there", "--out", "runs/one"]) == 0
    assert RunDir(here / "runs" / "one").checkpoint("best").tokenizer.encode(LETTERS).tolist() == list(
        range(len(LETTERS))
    )


def test_vocab_and_merges_files_are_imported(here: Path) -> None:
    tokenizer = BPETokenizer.train(iter([PLAY]), 300)
    their_model(here / "there", vocab_size=300)
    (here / "there" / "tokenizer.json").unlink()
    kept = json.loads(tokenizer.to_json())["model"]
    (here / "there" / "vocab.json").write_text(json.dumps(kept["vocab"]), encoding="utf-8")
    merges = "".join(f"{' '.join(pair)}\n" for pair in kept["merges"])
    (here / "there" / "merges.txt").write_text(f"#version: 0.2\n{merges}", encoding="utf-8")
    assert run(IN_TORCH, ["import", "there", "--out", "runs/one"]) == 0
    imported = RunDir(here / "runs" / "one").checkpoint("best").tokenizer
    assert imported.encode(PLAY).tolist() == tokenizer.encode(PLAY).tolist()


@pytest.mark.parametrize("cli", [BY_HAND, IN_TORCH], ids=["NumPy", "torch"])
def test_both_engines_train_an_imported_model(here: Path, capsys: pytest.CaptureFixture[str], cli: EngineCLI) -> None:
    their_model(here / "there")
    (here / "letters.txt").write_text(LETTERS * 40, encoding="utf-8")
    assert run(IN_TORCH, ["import", "there", "--out", "runs/one"]) == 0
    assert json.loads(Path("runs/one/config.json").read_text(encoding="utf-8"))["from"] == "there"
    recipe = RunDir(Path("runs/one")).checkpoint("latest").state.recipe  # a small learning rate for a trained model
    assert recipe == Recipe(steps=1000, batch_size=8, lr=3e-5, weight_decay=0.1, grad_clip=1.0, eval_every=100)
    assert run(cli, ["train", "--resume", "--steps", "3"]) == 2
    assert "came without a text; give one by --data" in capsys.readouterr().err
    assert run(cli, ["train", "--resume", "--steps", "3", "--data", "letters.txt"]) == 0
    assert run(cli, ["train", "--resume", "--steps", "4"]) == 0  # from now on it has a text
    assert run(cli, ["eval"]) == 0
    assert run(cli, ["generate", "--length", "5"]) == 0


# ---- errors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llama"}, "there: model_type is 'llama'; only 'gpt2' is supported"),
        ({"layer_norm_epsilon": 1e-6}, "there: layer_norm_epsilon is 1e-06; only 1e-05 is supported"),
        ({"activation_function": "relu"}, "there: activation_function is 'relu'; supported are gelu, "),
        ({"n_inner": 5}, "there: n_inner is 5; only 4 * n_embd is supported"),
        ({"n_head": 3}, "there/config.json: n_embd 8 cannot be shared among n_head 3 heads"),
        ({"n_layer": 3}, "there: h.2.ln_1.weight is missing from the weights"),
        ({"n_positions": 9}, "there: wpe.weight has the wrong shape, (8, 8)"),
        ({"vocab_size": 60}, "there: the tokenizer has 65 tokens, the model only 60"),
    ],
)
def test_unsupported_model_is_a_one_line_error(
    here: Path, capsys: pytest.CaptureFixture[str], change: dict[str, Any], message: str
) -> None:
    their_model(here / "there")
    path = here / "there" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **change}), encoding="utf-8")
    capsys.readouterr()
    assert run(IN_TORCH, ["import", "there", "--out", "runs/one"]) == 2
    error = capsys.readouterr().err
    assert error.startswith(f"gpt-torch: {message}")
    assert error.count("\n") == 1
    assert not (here / "runs" / "one").exists()


def test_pickled_weights_are_refused(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    their_model(here / "there")
    (here / "there" / "model.safetensors").rename(here / "there" / "pytorch_model.bin")
    capsys.readouterr()
    assert run(IN_TORCH, ["import", "there"]) == 2
    error = capsys.readouterr().err
    assert error == (
        "gpt-torch: there/pytorch_model.bin is a pickle, which can run code when it is opened; save it as "
        "model.safetensors\n"
    )


def test_export_overwrites_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(BY_HAND, ["train", "--out", "runs/one", *TINY]) == 0
    assert run(IN_TORCH, ["export", "runs"]) == 2
    assert "runs is not empty; give another folder" in capsys.readouterr().err
    assert run(IN_TORCH, ["export", "play.txt"]) == 2
    assert "play.txt is not empty; give another folder" in capsys.readouterr().err
    assert run(IN_TORCH, ["export"]) == 2
    assert "FOLDER" in capsys.readouterr().err


def test_missing_config_fields_have_transformers_defaults() -> None:
    import transformers

    theirs, ours = transformers.GPT2Config(), _our_config({}, Path("there"))
    sizes = theirs.vocab_size, theirs.n_positions, theirs.n_layer, theirs.n_head, theirs.n_embd
    assert (ours.vocab_size, ours.block_size, ours.n_layer, ours.n_head, ours.n_embd) == sizes
    assert (ours.dropout, ours.tie_weights) == (theirs.resid_pdrop, theirs.tie_word_embeddings)
    assert (ours.gelu, theirs.activation_function) == ("tanh", "gelu_new")
