"""Test that the table of mutants is complete and that each mutant still applies.

Every random draw and every field of a recipe must have one. `make mutants` checks that each is
caught.
"""

import ast
import dataclasses
import importlib
import re
import subprocess
from pathlib import Path

import pytest

from cv3jax import recipes
from cv3jax.distillation.parsing import parse_recipe
from data_pipeline.io.errors import InputError

ROOT = Path(__file__).parents[2]
# what training draws with, where training draws
DRAW = re.compile(
    r"random\.(?!key_data)\w+\(|fold_in\(|rng\.\w+|\.shuffle\(|\.seed\(|random_map\(|SeedSequence\("
)
TRAINING = (
    "cv3jax/training",
    "cv3jax/distillation",
    "cv3jax/lora",
    "cv3jax/diffusion",
    "cv3jax/optim",
    "data_pipeline/loading",
)
# parts of lines that draw nothing that a step sees
NO_STEP_DRAWS = {
    "cv3jax/diffusion/sampler.py": (
        "jax.random.normal(jax.random.fold_in(key, number)",
    ),  # sampling
    "cv3jax/distillation/evaluation.py": ("jax.vmap(jax.random.key)",),  # of the same pictures
    "cv3jax/distillation/heldout.py": ("jax.random.fold_in(key, level)",),
    "cv3jax/distillation/parity.py": ("np.random.default_rng(stage.seed)",),  # inputs to compare on
    "cv3jax/training/previews.py": ("jax.vmap(jax.random.key)",),
    # of evaluations, whose figures tests/training/test_heldout.py has from NumPy
    "cv3jax/training/assessing.py": ("np.random.default_rng(0)",),
    "cv3jax/training/autoencoder_heldout.py": ("jax.random.fold_in(jax.random.key(SEED), number)",),
    "cv3jax/training/fixed_pictures.py": ("jax.vmap(jax.random.key)",),
    "cv3jax/training/heldout_losses.py": (
        "jax.random.fold_in(key, level[0])",
        "jax.random.fold_in(jax.random.key(SEED), n)",
        "jax.random.fold_in(key, T)",
    ),
    # shapes alone
    "cv3jax/lora/programs.py": ("jax.eval_shape(trained, jax.random.key(0))",),
    "cv3jax/training/state.py": ("key = jax.random.key(settings.seed)",),
    "cv3jax/training/frozen.py": ("jax.eval_shape(init, jax.random.key(0))",),
    "data_pipeline/loading/damaged.py": ("start = pick.cell, rng.bit_generator.state",),  # no draw
}
# fields of recipes that no step's arithmetic depends on
NO_STEP_FIELDS = {
    "stage": "a name",
    "cascade": "which encoders: their parameters are the step's argument",
    "mesh": "how a step is spread: tests/distributed",
    "data.path": "which records",
    "data.cache": "what is read in place of what it is made of: tests/precompute",
    "data.cache_dir": "where shards of a bucket are kept",
    "data.cache_gb": "where shards of a bucket are kept",
    "data.threads": "speed",
    "data.workers": "speed",
    "text": "a random encoder's sizes",
    "train.log_every": "what is written when",
    "train.save_every": "what is written when",
    "train.preview_every": "what is written when",
    "train.keep": "what is written when",
    "train.keep_every": "what is written when",
    "train.export_every": "what is written when",
    "train.local_every": "what is written when",
    "train.local_dir": "what is written when",
    "train.wandb": "who is told: tests/training/test_wandb.py",
    **dict.fromkeys(
        (f"train.eval_{name}" for name in ("every", "data", "records", "metrics", "pictures")),
        "what is evaluated: tests/training/test_heldout.py",
    ),
    "train.eval_prompts": "what is evaluated",
    "train.eval_weights": "what is evaluated",
    "train.best": "which checkpoint stays: tests/training/test_best_checkpoint.py",
    "profile": "what is traced",
    "sample": "previews, but for the form",
    "distill.w": "what rounds are judged by",
    "distill.diverged": "what rounds are judged by",
    "distill.student": "a checkpoint's name",
}


@pytest.fixture(scope="module")
def script():
    """Return benchmarks/mutants.py as a module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("mutants")


@pytest.fixture(scope="module")
def mutants(script):
    return script.read_table()


def test_every_mutant_s_text_is_there_once_and_still_python(script, mutants):
    assert len(mutants) > 100
    for mutant in mutants:
        ast.parse(script.mutated(mutant, ROOT))


def test_every_mutant_s_tests_are_there(mutants):
    known = {}
    for mutant in mutants:
        assert mutant.tests
        for test in mutant.tests:
            file, name, case = re.fullmatch(r"([\w/]+\.py)::(\w+)(?:\[(.+)\])?", test).groups()
            if file not in known:
                text = (ROOT / file).read_text()
                functions = [n for n in ast.parse(text).body if isinstance(n, ast.FunctionDef)]
                known[file] = text, {function.name for function in functions}
            text, functions = known[file]
            assert name in functions, test
            assert case is None or f'"{case}"' in text, test


def undrawn(mutants, sources: dict[str, str]) -> list[str]:
    """Return the lines of sources with a random draw that no mutant changes."""
    found = []
    for file, text in sources.items():
        changed = set()
        for mutant in mutants:
            if mutant.file == file:
                before = text[: text.index(mutant.old)].count("\n")
                changed |= set(range(before, before + mutant.old.count("\n") + 1))
        for number, line in enumerate(text.splitlines()):
            code = line.split("#")[0]
            fine = any(part in line for part in NO_STEP_DRAWS.get(file, ()))
            if DRAW.search(code) and number not in changed and not fine:
                found.append(f"{file}:{number + 1} {line.strip()}")
    return found


def test_no_draw_of_training_is_without_a_mutant(mutants):
    sources = {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for folder in TRAINING
        for path in sorted((ROOT / folder).glob("*.py"))
    }
    assert undrawn(mutants, sources) == []
    for file, parts in NO_STEP_DRAWS.items():
        assert all(part in sources[file] for part in parts), file


def test_a_draw_without_a_mutant_is_seen(mutants):
    more = {"cv3jax/training/new.py": "a = 1\nb = jax.random.normal(key)  # new\n"}
    assert undrawn(mutants, more) == ["cv3jax/training/new.py:2 b = jax.random.normal(key)  # new"]


def fields(value, prefix: str = "") -> set[str]:
    """Return the dotted names of the fields of settings."""
    names = set()
    for field in dataclasses.fields(value):
        inner, name = getattr(value, field.name), f"{prefix}{field.name}"
        if dataclasses.is_dataclass(inner):
            names |= fields(inner, "" if name == "stage" else f"{name}.")
        elif name != "json":
            names.add(name)
    return names


def test_no_field_of_a_recipe_is_without_a_mutant(mutants):
    there = set()
    for name in ("scenes_base", "scenes_relay", "scenes_vae"):
        there |= fields(parse_recipe(recipes.load(name, [])))
    given = fields(parse_recipe(recipes.load("scenes_distill_base", [])))
    own = {"rounds", "target", "ema", "w", "diverged", "student"}
    assert own <= given
    there |= (given - own) | {f"distill.{name}" for name in own}
    given = fields(parse_recipe(recipes.load("scenes_lora", [])))
    own = {"rank", "alpha", "rslora", "dropout", "dora", "targets", "base_dtype"}
    assert own <= given
    there |= (given - own) | {f"lora.{name}" for name in own}
    there = {name for name in there if not any(one.startswith(f"{name}.") for one in there)}
    mutated = {mutant.of.partition(":")[0] for mutant in mutants}

    def covered(name: str) -> bool:
        above = [name.rsplit(".", i)[0] for i in range(name.count(".") + 1)]
        return any(one in mutated or one in NO_STEP_FIELDS for one in above)

    assert sorted(name for name in there if not covered(name)) == []
    unknown = [
        name
        for name in NO_STEP_FIELDS
        if not any(f"{one}.".startswith(f"{name}.") for one in there)
    ]
    assert unknown == []


ENTRY = 'name = "a"\nof = "b"\nfile = "f.py"\nold = "1"\nnew = "2"\ntests = ["t"]\n'


@pytest.mark.parametrize(
    ("table", "said"),
    [
        (ENTRY.replace('of = "b"\n', ""), "a must have exactly name, of, file, old, new, tests"),
        (ENTRY + 'more = "x"\n', "a must have exactly"),
        (ENTRY.replace('"2"', '"1"'), "a changes nothing"),
        (f"{ENTRY}[[mutant]]\n{ENTRY}", "a is there twice"),
    ],
    ids=["a field is missing", "a field is unknown", "changes nothing", "twice"],
)
def test_a_table_that_cannot_be_is_refused(table, said, script, tmp_path):
    path = tmp_path / "mutants.toml"
    path.write_text(f"[[mutant]]\n{table}")
    with pytest.raises(InputError, match=said):
        script.read_table(path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("x = 3\n", "'1' occurs 0 times in f.py"),
        ("x = 11\n", "'1' occurs 2 times"),
        (None, "no file f.py"),
    ],
)
def test_a_mutant_that_does_not_apply_stops_in_one_line(text, said, script, tmp_path):
    mutant = script.Mutant("a", "b", "f.py", "1", "2", ("t",))
    if text is not None:
        (tmp_path / "f.py").write_text(text)
    with pytest.raises(InputError, match=said) as e:
        script.mutated(mutant, tmp_path)
    assert "\n" not in str(e.value)
    with pytest.raises(InputError, match="--only c: no such mutant"):
        script.chosen([mutant], ["c"])


def done(code: int):
    return subprocess.CompletedProcess([], code, "FAILED t\n1 failed\n", "")


@pytest.mark.parametrize(("code", "caught"), [(1, True), (0, False)])
def test_a_mutant_is_caught_where_a_test_fails_and_the_file_is_put_back(
    code, caught, script, tmp_path, monkeypatch
):
    seen = []
    (tmp_path / "f.py").write_text("x = 1\n")

    def run_tests(root, tests):
        seen.append(((root / "f.py").read_text(), tests))
        return done(code)

    monkeypatch.setattr(script, "run_tests", run_tests)
    mutant = script.Mutant("a", "b", "f.py", "1", "2", ("t",))
    found = script.verdict(mutant, tmp_path)
    assert seen == [("x = 2\n", ("t",))]
    assert found.caught == caught
    assert (tmp_path / "f.py").read_text() == "x = 1\n"
    assert ("SURVIVED" in script.report([found])) != caught


@pytest.mark.parametrize("code", [2, 4, 5])
def test_tests_that_did_not_run_catch_nothing(code, script, tmp_path, monkeypatch):
    (tmp_path / "f.py").write_text("x = 1\n")
    monkeypatch.setattr(script, "run_tests", lambda root, tests: done(code))
    mutant = script.Mutant("a", "b", "f.py", "1", "2", ("t",))
    with pytest.raises(
        InputError, match=rf"a: its tests did not run \(pytest's exit code {code}\)"
    ):
        script.verdict(mutant, tmp_path)
    assert (tmp_path / "f.py").read_text() == "x = 1\n"
