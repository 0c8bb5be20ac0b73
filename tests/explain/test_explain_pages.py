"""Pages of explain that are opened for one test: on other screens, with changed numbers, of other models and texts."""

import base64
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpt_numpy import GPTConfig
from gpt_numpy.explain import command
from gpt_numpy.explain.account import account
from gpt_numpy.explain.checks import BEND, EXACT, by_torch, check_all
from gpt_numpy.explain.differences import resolution
from gpt_numpy.explain.fixed import fixed_contents
from gpt_numpy.explain.page import write_page
from gpt_numpy.explain.problem import Problem
from gpt_numpy.explain.trace import Trace
from gpt_numpy.workshop.params import initial_weights
from gpt_numpy.workshop.report.report import embedded
from tests.equivalence.problems import perturb
from tests.explain.reader import Reader, all_of, brightness, make_fixed_page, make_page, split_page

pytestmark = [pytest.mark.together("a browser for pages of one test"), pytest.mark.slow("a browser, in detail")]


# ---- numbers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrong", ["torch", "difference"])
def test_page_and_python_have_the_same_tolerances(
    wrong: str, browser: Any, fixed_file: Path, trace: Trace, tmp_path: Path
) -> None:
    """Two numbers of an entry are changed in the file: one by twice its tolerance, the other by half of it."""
    smallest = np.unravel_index(np.abs(trace.numbers["dU_mlp0"]).argmin(), trace.numbers["dU_mlp0"].shape)
    # The second is a single product, tiny beside the other entries of its matrix.
    entries: dict[str, tuple[int, ...]] = {"dS": (3, 1), "dU_mlp0": tuple(map(int, smallest))}
    sizes = {name: account(trace, name, index).size for name, index in entries.items()}
    amounts = {
        (name, way, entries[name]): (2.0 if way == wrong else 0.5) * allowed
        for name, size in sizes.items()
        for way, allowed in {"torch": EXACT * size, "difference": BEND * size + resolution(trace)}.items()
    }
    reader = Reader(browser, with_changed_numbers(fixed_file, tmp_path, amounts))
    for (name, way, index), amount in amounts.items():
        reader.go(f"#{name}[{','.join(map(str, index))}]")
        assert all_of(reader.page, "#account [data-way].wrong", "way") == [wrong]
        relative = reader.number(f"#account [data-way={way}]", "relative")
        assert relative == pytest.approx(amount / sizes[name], rel=0.35)  # the correct number has a rounding error, too


def with_changed_numbers(file: Path, folder: Path, amounts: dict[tuple[str, str, tuple[int, ...]], float]) -> Path:
    """The page with an amount added to some numbers, each named by its quantity, its way, and its index."""
    before, text, after = split_page(file)
    data = json.loads(text)
    for (name, way, index), amount in amounts.items():
        record = next(one for one in data["tables"]["0"] if one["name"] == name)
        numbers = unpack(record[way])
        position = int(np.ravel_multi_index(index, record["shape"]))
        if way == "difference" and "measured" in record:
            position = int(np.flatnonzero(unpack(record["measured"]) == position)[0])
        numbers[position] += amount
        record[way] = base64.b64encode(numbers.tobytes()).decode("ascii")
    page = folder / "changed.html"
    page.write_text(before + embedded(data) + after, encoding="utf-8")
    return page


@pytest.mark.parametrize("ways", [["torch", "difference"], ["numbers"]], ids=" and ".join)
def test_wrong_number_in_the_file_is_shown_as_wrong(
    ways: list[str], browser: Any, fixed_file: Path, tmp_path: Path
) -> None:
    """Numbers of dS are changed: their accounts show it, and, if it is the tape's, the page's own arithmetic too."""
    indices = dict(zip(ways, [(3, 1), (6, 2)], strict=False))
    amounts: dict[tuple[str, str, tuple[int, ...]], float] = {
        ("dS", way, index): 1e-4 for way, index in indices.items()
    }
    reader = Reader(browser, with_changed_numbers(fixed_file, tmp_path, amounts))
    for way, (row, column) in indices.items():
        reader.go(f"#dS[{row},{column}]")
        wrong = all_of(reader.page, "#account [data-way].wrong", "way")
        assert wrong == (["tape", "torch", "difference"] if way == "numbers" else [way])
        assert "WRONG" in reader.page.text_content("#account [data-way].wrong")
        assert "They do NOT agree" in reader.page.text_content("#account")
    assert (reader.number("#own", "largest") > 1e-4) == ("numbers" in ways)


def unpack(text: str) -> Any:
    kind = "<f4" if text.startswith(",") else "<f8"
    return np.frombuffer(base64.b64decode(text.removeprefix(",")), kind).astype("<f8")


def test_difference_that_was_not_taken_is_shown_as_not_measured(browser: Any, tmp_path: Path) -> None:
    reader = Reader(browser, make_fixed_page(tmp_path / "page.html", "To be, or", 60))
    reader.go("#dS[7,7]")
    measured = reader.number("#account [data-way=difference]", "value")
    assert measured == pytest.approx(reader.number("#account [data-way=tape]", "value"), rel=1e-4, abs=1e-9)
    reader.go("#dS[3,1]")
    assert reader.page.get_attribute("#account [data-way=difference]", "data-value") is None
    assert "not measured" in reader.page.text_content("#account [data-way=difference]")
    assert not reader.page.query_selector_all("#account .wrong")


# ---- screens --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [360, 768, 1440])
def test_page_fits_every_screen(width: int, browser: Any, file: Path) -> None:
    reader = Reader(browser, file, "#dS[3,1]&tour=6&break=rowsum", viewport={"width": width, "height": 800})
    for scheme in ("light", "dark"):
        reader.page.emulate_media(color_scheme=scheme)
        for state in ("#dS[3,1]&tour=6&break=rowsum", "#dR_mlp0[3,3]", "#"):
            reader.go(state)
            assert reader.page.evaluate("document.documentElement.scrollWidth") <= width, state
        assert (brightness(reader.page) > 384) == (scheme == "light")
    assert reader.messages == []


def test_matrices_have_the_same_size_before_and_after_the_steps(browser: Any, file: Path) -> None:
    """A narrow screen shows only the matrices of a step."""
    narrow = {"width": 360, "height": 800}
    sizes = "Array.from(document.querySelectorAll('#flow canvas')).filter(one => one.offsetParent)"
    sizes += ".map(one => [one.width, one.height])"
    reader = Reader(browser, file, "#tour=6", viewport=narrow)
    reader.go("#")
    found = reader.page.evaluate(sizes)
    reader.open()
    assert found == reader.page.evaluate(sizes)
    assert len(found) > 5


def test_print_is_light_and_has_no_switches(browser: Any, file: Path) -> None:
    reader = Reader(browser, file, "#dS[3,1]", color_scheme="dark")
    assert brightness(reader.page) < 384
    reader.page.emulate_media(media="print")
    assert brightness(reader.page) > 600
    assert not reader.page.is_visible("input[name=break]")
    assert reader.page.is_visible("#account table")


# ---- texts and models -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["</script><script>alert(1)</script>\u2028\u202e\x1b[1m é☃", "<img src=x onerror=alert(1)>{{data}}"]
)
def test_text_is_never_markup(text: str, browser: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "WORK", 0.0)  # without differences
    reader = Reader(browser, make_page(tmp_path / "page.html", text), "#dS[3,1]")
    assert reader.page.is_visible("#account")
    assert reader.messages == []
    assert not reader.page.query_selector("img")
    assert len(reader.page.query_selector_all("script")) == 3


@pytest.mark.parametrize(
    "changes", [{"bias": False, "tie_weights": True, "n_head": 1, "n_layer": 1}, {"gelu": "tanh", "n_layer": 3}]
)
def test_page_works_for_other_models(changes: dict[str, Any], browser: Any, tmp_path: Path) -> None:
    config = GPTConfig(**{"vocab_size": 3, "block_size": 4, "n_layer": 2, "n_head": 2, "n_embd": 8, **changes})
    layer, head = config.n_layer - 1, config.n_head - 1
    problem = Problem(config, float64_weights(config), np.array([0, 1, 2, 1]), np.array([1, 2, 1, 0]), layer, head)
    reader = Reader(browser, fixed_page_of(problem, tmp_path))
    assert reader.number("#own", "largest") < 1e-13
    for name in ("dS[2,1]", "dX[1,3]", "dR[3,3]", "dY[0,0]", "P[3,2]"):
        reader.go(f"#{name}")
        assert reader.page.query_selector("#account [data-total]")
        assert not reader.page.query_selector_all("#account .wrong")
    assert reader.messages == []


def test_large_page_opens_quickly(browser: Any, tmp_path: Path) -> None:
    """32 characters, width 128. It should take at most two seconds; a busy machine gets four, and three tries."""
    config = GPTConfig(vocab_size=65, block_size=64, n_layer=4, n_head=4, n_embd=128)
    ids = np.random.default_rng(0).integers(0, 65, 32)
    page = fixed_page_of(Problem(config, float64_weights(config), ids[:-1], ids[1:], 0, 0), tmp_path, most=0)
    assert 4e6 < page.stat().st_size < 5e6
    reader = Reader(browser, page)
    times: list[float] = []
    for tries in range(3):
        if tries:
            reader.open()
        times.append(reader.page.evaluate("performance.now()") / 1000)
        if times[-1] < 4:
            break
    assert min(times) < 4, times


def test_nan_is_shown_as_wrong(browser: Any, tmp_path: Path) -> None:
    config = GPTConfig(vocab_size=3, block_size=4, n_layer=1, n_head=2, n_embd=8)
    weights = float64_weights(config)
    weights["blocks.0.attn.c_attn.weight"][0, 0] = np.nan
    reader = Reader(browser, fixed_page_of(Problem(config, weights, np.arange(3), np.array([1, 2, 0]), 0, 0), tmp_path))
    assert not reader.number("#own", "largest") < 1
    reader.go("#dS[2,1]")
    assert set(all_of(reader.page, "#account [data-way].wrong", "way")) >= {"tape", "torch"}
    assert "NaN" in reader.page.text_content("#account")
    assert reader.messages == []


def float64_weights(config: GPTConfig) -> dict[str, Any]:
    weights = {
        name: array.astype(np.float64) for name, array in perturb(initial_weights(config, 0), config, 1, 0.3).items()
    }
    return {"lm_head.weight": weights["tok_emb.weight"], **weights}


def fixed_page_of(problem: Problem, folder: Path, most: int = 10**9) -> Path:
    trace, torch = Trace(problem), by_torch(problem)
    labels = [str(n) for n in range(problem.config.vocab_size)]
    about = {"text": "012", "vocabulary": labels, "described": "a model",
             "command": ["gpt-numpy explain 012", ""], "torch": True}  # fmt: skip
    write_page(folder / "page.html", fixed_contents(trace, torch, check_all(trace, torch, most), about))
    return folder / "page.html"


def test_the_head_and_its_gradients_are_on_one_screen(browser: Any, file: Path) -> None:
    """Each gradient under its value; S and P are the largest."""
    reader = Reader(browser, file, viewport={"width": 1440, "height": 900})
    boxes = {
        name: reader.page.query_selector(f"#flow [data-matrix={name}]").bounding_box()
        for value in ("Q", "K", "V", "S", "P", "O", "Z")
        for name in (value, f"d{value}")
    }
    boxes |= {name: reader.page.query_selector(f"#flow [data-matrix={name}]").bounding_box() for name in ("p", "next")}
    assert max(box["y"] + box["height"] for box in boxes.values()) <= 900
    for value in ("Q", "K", "V", "S", "P", "O", "Z"):
        above, under = boxes[value], boxes[f"d{value}"]
        assert 0 < under["y"] - above["y"] - above["height"] < 100
        assert above["x"] == under["x"]
    areas = {name: box["width"] * box["height"] for name, box in boxes.items()}
    assert min(areas[name] for name in ("S", "P", "dS", "dP")) > max(areas[name] for name in ("Q", "K", "V", "O", "dQ"))


COLOURS = """name => { // inside the cell at the lower left
  const canvas = document.querySelector(`[data-matrix=${name}] canvas`), context = canvas.getContext("2d");
  const [rows, cols] = document.querySelector(`[data-figure=${name}] .quiet`).textContent.split("×").map(Number);
  const width = canvas.width / cols, height = canvas.height / rows;
  const { data } = context.getImageData(2, canvas.height - height + 2, width - 4, height - 4);
  return new Set(Array.from({ length: data.length / 4 }, (_, n) => data.slice(4 * n, 4 * n + 3).join())).size;
}"""


def test_numbers_stand_in_cells_that_are_large_enough(browser: Any, file: Path, tmp_path: Path) -> None:
    view = {"width": 1440, "height": 900}
    short = Reader(browser, make_page(tmp_path / "page.html", "banana"), viewport=view).page
    assert all(short.evaluate(COLOURS, name) > 3 for name in ("S", "P", "dS", "dP"))
    assert Reader(browser, file, viewport=view).page.evaluate(COLOURS, "S") == 1


def test_phone_shows_one_pair_at_a_time(browser: Any, file: Path) -> None:
    reader = Reader(browser, file, "#tour=6", viewport={"width": 390, "height": 844})
    page = reader.page
    shown = "Array.from(document.querySelectorAll('#flow [data-matrix]')).filter(one => one.offsetParent)"
    shown += ".map(one => one.dataset.matrix)"
    assert set(page.evaluate(shown)) == {"dP", "P", "dS"}  # those of the step
    reader.go("#")
    assert page.evaluate(shown) == ["S", "dS"]
    width = page.query_selector("[data-matrix=S] canvas").bounding_box()["width"]
    assert width > 250  # not squeezed, although it was hidden or in a step before
    page.click("[data-chip=K]")
    assert page.evaluate(shown) == ["K", "dK"]
    assert page.get_attribute("[data-chip=K]", "aria-pressed") == "true"
    reader.go("#dO[2,1]")
    assert page.evaluate(shown) == ["O", "dO"]
    assert page.evaluate("document.documentElement.scrollHeight") < 5000
    assert reader.messages == []


def test_large_matrices_of_a_longer_text_do_not_scroll(browser: Any, tmp_path: Path) -> None:
    text = "To be, or not to be, that is"
    reader = Reader(browser, make_page(tmp_path / "page.html", text), viewport={"width": 1440, "height": 900})
    for name in ("S", "dS", "P", "dP"):
        box = f"document.querySelector('[data-matrix={name}]')"
        assert reader.page.evaluate(f"{box}.scrollHeight <= {box}.clientHeight")
