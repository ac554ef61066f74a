"""The scripts repeat their functions, so that each can be copied alone. What repeats is
the same to the letter, and each function runs lifted out of its script."""

import ast
import functools
import re
from collections import defaultdict

import numpy as np
import pytest
from conftest import CLASSIFIERS, COMPARISONS, ROOT, random_losses
from matplotlib.figure import Figure

import lstm_classify
import sequence

FILES = ["sequence", *CLASSIFIERS, *COMPARISONS]


def sources(name, *kinds):
    """The source of each statement of some kinds at the top of a file."""
    source = (ROOT / f"{name}.py").read_text(encoding="utf-8")
    body = ast.parse(source).body
    return [ast.get_source_segment(source, n) for n in body if isinstance(n, kinds)]


def functions(name):
    """The source of each function in a file, by its name."""
    return {text[4 : text.index("(")]: text for text in sources(name, ast.FunctionDef)}


def test_functions_in_several_scripts_are_identical():
    texts = defaultdict(list)
    for name in FILES:
        for function, text in functions(name).items():
            texts[function].append(text)
    differ = {function for function in texts if len(set(texts[function])) > 1}
    assert differ == {"main", "parse_args"}  # Options and models are each script's own.
    for twins in (CLASSIFIERS, COMPARISONS):
        assert len({functions(name)["parse_args"] for name in twins}) == 1
    assert len(texts["get_lstm_model"]) == 2 and len(texts["get_bi_lstm_model"]) == 3


def test_classifiers_differ_in_the_model_and_its_name_alone():
    lstm, bilstm = (functions(name)["main"] for name in CLASSIFIERS)
    assert bilstm.replace("get_bi_lstm", "get_lstm").replace("BiLSTM", "LSTM") == lstm


def test_scripts_import_sequence_and_no_other_script():
    for name in FILES:
        source = (ROOT / f"{name}.py").read_text(encoding="utf-8")
        imported = re.findall(r"^\s*(?:from|import) (\w+)", source, re.MULTILINE)
        own = {"sequence"} if name != "sequence" else set()
        assert set(imported) & set(FILES) == own


def lift(name, function, head):
    """Runs this head, the function, and the functions that it calls, alone, and gives
    the function and the names of all of them."""
    known, needed, waiting = functions(name), {}, [function]
    while waiting:
        current = waiting.pop()
        needed[current] = known[current]
        used = {n.id for n in ast.walk(ast.parse(known[current])) if hasattr(n, "id")}
        waiting += [f for f in used if f in known and f not in needed]
    exec("\n".join([*head, *needed.values()]), alone := {})  # noqa: S102
    return alone[function], set(needed)


X, Y = sequence.get_sequences(6, 4, rng=0)
RESULTS = random_losses(["mine", "another"], [1, 2], 2)
small_model = functools.partial(lstm_classify.get_lstm_model, 4, n_units=2)
# How each function that a reader may copy is called.
CALLS = {
    "get_labels": lambda f: f(X),
    "get_limits": lambda f: f(X),
    "get_sequence": lambda f: f(4),
    "get_sequences": lambda f: f(2, 4),
    "plot_results": lambda f: f(Figure().subplots(), RESULTS),
    "plot_sequence": lambda f: f(*Figure().subplots(2), *[X[0, :, 0]] * 3, 1),
    "plot_training": lambda f: f(Figure().subplots(), [0.7, 0.6], 0.3),
    "position_baseline": lambda f: f(4),
    "summarize": lambda f: f(RESULTS),
    "train_model": lambda f: f(small_model(), (X[None], Y[None])),
    "train_repeats": lambda f: list(
        f({"a": small_model}, lambda seed: (X, Y), [0, 1], batch_size=2, jit=False)
    ),
}
BUILDERS = {"get_lstm_model", "get_bi_lstm_model"}


@pytest.mark.parametrize("name", ["sequence", "lstm_classify", "compare_directions"])
def test_functions_run_lifted_out(name):
    imports = sources(name, ast.Import, ast.ImportFrom)
    head = [text for text in imports if not text.startswith("from sequence")]
    for function in functions(name).keys() - BUILDERS - {"main", "parse_args"}:
        CALLS[function](lift(name, function, head)[0])


@pytest.mark.parametrize("name", [*CLASSIFIERS, "compare_directions"])
def test_builders_need_keras_alone(name):
    for function in functions(name).keys() & BUILDERS:
        build, needed = lift(name, function, ["import keras"])
        assert needed == {function}
        model = build(4, n_units=2, n_features=3)
        assert model(np.ones((2, 4, 3))).shape == (2, 4, 1)
