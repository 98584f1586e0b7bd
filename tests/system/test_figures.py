"""Test that the figures of README and docs are those of the result files.

Each figure names its command and commit.
"""

import collections
import re
import subprocess

import pytest
from documents import (
    COMMAND,
    COMMIT,
    DOCUMENTS,
    RESULTS,
    ROOT,
    figures,
    flat,
    in_percent,
    read,
    result,
    rows,
    sections,
    tables,
)
from figure_sources import SOURCES

from cv3jax.cli import COMMANDS
from data_pipeline.cli import COMMANDS as DATA_COMMANDS

# (document, section, result): the section's table that has the result's head has all of its
# rows, and no others
COPIED = (
    ("docs/benchmarks.md", "UNet against diffusers in PyTorch", "unet.md"),
    ("docs/benchmarks.md", "A distillation step before and after", "distill_before.md"),
    ("docs/benchmarks.md", "One session on a GPU", "gpu_plan.md"),
    ("docs/benchmarks.md", "First picture", "first_picture.md"),
    ("docs/benchmarks.md", "Training loop against the bare step", "loop.md"),
    (
        "docs/benchmarks.md",
        "Evaluations against the run without them: the autoencoder",
        "eval_overhead.md",
    ),
    (
        "docs/benchmarks.md",
        "Evaluations against the run without them: the base stage",
        "eval_overhead_base.md",
    ),
    ("docs/benchmarks.md", "Attention kernels", "attention.md"),
    ("docs/guides/finetune.md", "A new word, measured", "lora_scenes.md"),
    ("docs/benchmarks.md", "Cascade against a single stage", "cascade.md"),
    ("docs/benchmarks.md", "Windows of shards against the global shuffle", "shuffle_windows.md"),
    ("docs/benchmarks.md", "Two billion records", "many_records.md"),
    ("docs/benchmarks.md", "Dataset build against planted faults", "data_build.md"),
    ("docs/benchmarks.md", "Serving under faults", "serve_soak.md"),
    ("docs/benchmarks.md", "Serving under faults", "serve_soak_scenes.md"),
    ("docs/scale/compile.md", "What the compiler says of the paper's stages", "compile_time.md"),
    (
        "docs/scale/compile.md",
        "Flags that overlap collectives with computation",
        "overlap.md",
    ),
)
# results from before they recorded their commit → the commit that stored them; never a new one
KNOWN_OLD = {
    "attention": "3adc93b",
    "cascade": "3adc93b",
    "distill": "7186674",
    "guidance": "997779c",
    "loader": "8bb82c3",
    "packaged": "997779c",
}
# results that a script made with other flags → that script
MADE_BY = {"serve_soak_scenes": "serve_soak", "eval_overhead_base": "eval_overhead"}
# of `make benchmarks`, whose figures stand in a document alone
NOT_KEPT = {"recaption"}
# pages and sections whose decimal numbers are no measurements
NOT_MEASURED = {
    *((document, None) for document in DOCUMENTS if document.startswith("docs/decisions/")),
    ("docs/theory/mathematics.md", None),  # arithmetic; tests/system/test_theory.py names its tests
    ("docs/guides/convert.md", "What is read from the file, and what is not"),
    ("docs/scale/five-stages.md", "Data"),  # thresholds of scores, which a user sets
}
STORED = sorted(path.stem for path in RESULTS.glob("*.json"))


@pytest.mark.parametrize(("document", "title", "name"), COPIED, ids=lambda value: value)
def test_a_copied_table_is_the_results(document, title, name):
    (text,) = [s.text for s in sections(document) if s.title == title]
    stored = set(map(in_percent, rows((RESULTS / name).read_text())))
    (shown,) = [table for table in tables(text) if table[0] in stored]
    assert len(shown) > 2
    assert [row for row in shown if row not in stored] == []
    assert stored <= set(shown), "the document leaves rows out"


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
def test_a_document_says_what_its_result_file_does(source):
    sayings = list(source())
    assert sayings
    missing = [f"{where}: {what}" for where, what in sayings if what not in flat(read(where))]
    assert missing == []


def test_the_table_of_compilations_names_the_commits_of_its_rows():
    made = collections.Counter(
        (each["revision"], each["date"][:10]) for each in result("compile_time")["results"].values()
    )
    (said,) = [
        table[1:]
        for table in tables(read("docs/scale/compile.md"))
        if table[0] == ("commit", "day", "rows")
    ]
    assert said == [(*commit, str(count)) for commit, count in made.items()]


def measured_sections():
    for document in DOCUMENTS:
        for section in sections(document):
            if {(document, None), (document, section.title)} & NOT_MEASURED:
                continue
            if document.startswith("docs/decisions"):  # figures of the day of a decision
                continue
            if len(figures(section.text)) > 1 or (
                document == "docs/benchmarks.md" and section.title != "Benchmarks"
            ):
                yield section


@pytest.mark.parametrize(
    "section", measured_sections(), ids=lambda section: f"{section.document} {section.title}"
)
def test_figures_name_their_command_and_commit(section):
    assert COMMAND.search(section.text), "no command"
    assert COMMIT.search(section.text) or "names the commit of each line" in flat(section.text)


@pytest.mark.parametrize("name", STORED)
def test_a_result_has_its_script_its_date_its_commit_and_a_document(name):
    script = MADE_BY.get(name, name)
    assert (ROOT / "benchmarks" / f"{script}.py").is_file()
    found = result(name)
    facts = found.get("facts") or found.get("environment") or found
    assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d UTC", facts["date"])
    naming = [
        section.text
        for document in DOCUMENTS
        for section in sections(document)
        if f"benchmarks/{script}.py" in section.text
    ]
    assert naming, f"no document names benchmarks/{script}.py"
    commits = (
        {each.get("revision") for each in found["results"].values()}
        if name in ("compile_time", "large_pictures", "finetune_memory")
        else {facts.get("revision")}
    )
    if name in KNOWN_OLD:
        assert commits == {None}, f"{name} records its commit now: strike it from KNOWN_OLD"
        commits = {KNOWN_OLD[name]}
    assert not commits & {None, "none"}
    said = "\n".join(naming)
    assert all(commit.rstrip("+") in said for commit in commits), commits


@pytest.mark.parametrize("name", [name for name in STORED if (RESULTS / f"{name}.md").exists()])
def test_a_results_two_files_are_of_one_run(name):
    found = result(name)
    if name != "compile_time":
        date = (found.get("facts") or found)["date"]
        assert date in (RESULTS / f"{name}.md").read_text()


def test_every_benchmark_keeps_its_result_or_says_that_it_does_not():
    names = re.search(r"^BENCHMARKS := (.*)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(names[1].split()) - set(STORED) == NOT_KEPT
    assert "no result file is kept" in flat(read("docs/guides/recaption.md"))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_commands_of_a_document_are_there(document):
    text = read(document)
    files = re.findall(r"(?:benchmarks|tests|launch|examples)/[\w/]+\.(?:py|sh)\b", text)
    assert [name for name in files if not (ROOT / name).is_file()] == []
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    # in code alone: "make" is a word too
    asked = re.findall(r"(?:^|`|&& )make ([a-z-]+)", text, re.MULTILINE)
    assert [name for name in asked if name not in targets] == []
    given = re.findall(r"(?:^|`|/|&& )cv3jax ([a-z][a-z-]*)(?: ([a-z]+))?", text, re.MULTILINE)
    known = {name.partition(" ")[0] for name in COMMANDS}
    assert [name for name, _ in given if name not in known] == []
    parts = {*DATA_COMMANDS, *(name.removeprefix("data ") for name in COMMANDS if " " in name)}
    assert [part for name, part in given if name == "data" and part and part not in parts] == []


def test_the_commits_of_the_documents_are_in_the_history():
    named = {
        commit
        for document in DOCUMENTS
        for section in sections(document)
        for commit in COMMIT.findall(section.text)
    }
    assert len(named) > 10

    def git(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True)

    if git("rev-parse", "--is-shallow-repository").stdout.strip() != "false":
        pytest.skip("there is no Git history")  # a shallow clone, or a copy without git
    there = {
        name for name in named if git("merge-base", "--is-ancestor", name, "HEAD").returncode == 0
    }
    if not there:
        pytest.skip("another history is here")  # the package is a folder of another repository
    assert named - there == set()
