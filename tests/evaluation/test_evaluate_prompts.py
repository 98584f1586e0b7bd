"""Test the sets of prompts: each published layout, names, choice, hashes, and what is refused."""

import json

import pytest

from cv3jax.evaluation import prompt_sets
from cv3jax.evaluation.prompt_files import read_coco, read_file
from cv3jax.evaluation.prompt_row import PromptRow
from cv3jax.evaluation.prompt_sets import PromptSet, open_set
from data_pipeline.io.errors import InputError
from data_pipeline.scenes import grammar

# small files of the layouts in which the sets are published
PARTI = (
    "Prompt\tCategory\tChallenge\tNote\n"
    "stone\tAbstract\tBasic\tone of several\n"
    '"W O R D" painted on a wall \tArts\tWriting & Symbols\t\n'
)
DRAWBENCH = 'Prompts,Category\nA red car.,Colors\n"A pear, ""cut"" in two.",Counting\n'
GENEVAL = (
    '{"tag": "counting", "include": [{"class": "cup", "count": 2}], "exclude": [{"class": "cup",'
    ' "count": 3}], "prompt": "a photo of two cups"}\n'
    '{"tag": "colors", "include": [{"class": "cup", "count": 1, "color": "red"}],'
    ' "prompt": "a photo of a red cup"}\n'
)


def coco(images: int) -> str:
    """Return captions of so many images, two of each, the later caption first."""
    annotations = [
        {"image_id": 7 * i, "id": 10 * i + more, "caption": f"caption {more} of {7 * i}.\n"}
        for i in range(images)
        for more in (1, 0)
    ]
    return json.dumps({"info": {}, "images": [], "annotations": annotations, "licenses": []})


@pytest.mark.parametrize(
    ("name", "text", "rows"),
    [
        (
            "PartiPrompts.tsv",
            PARTI,
            [("00000", "stone", "Abstract"), ("00001", '"W O R D" painted on a wall', "Arts")],
        ),
        (
            "DrawBench.csv",
            DRAWBENCH,
            [("00000", "A red car.", "Colors"), ("00001", 'A pear, "cut" in two.', "Counting")],
        ),
        (
            "evaluation_metadata.jsonl",
            GENEVAL,
            [
                ("00000", "a photo of two cups", "counting"),
                ("00001", "a photo of a red cup", "colors"),
            ],
        ),
        ("mine.txt", "\ufeffa fox\r\na dog\r\n\r\n", [("00000", "a fox"), ("00001", "a dog")]),
        (
            "mine.jsonl",
            '{"prompt": "a fox", "id": "f", "seed": 4, "more": []}\n{"prompt": "a dog", "id": 2}',
            [("f", "a fox", "all", 4), ("2", "a dog")],
        ),
        (
            "mine.csv",
            "id,prompt,seed\nf,a fox,4\ng,a dog,\n",
            [("f", "a fox", "all", 4), ("g", "a dog")],
        ),
        (
            "mine.json",
            '["a fox", {"prompt": "a dog", "category": "b"}]',
            [("00000", "a fox"), ("00001", "a dog", "b")],
        ),
        (
            "captions.json",
            coco(1),
            [("1", "caption 1 of 0."), ("0", "caption 0 of 0.")],
        ),
    ],
)
def test_each_layout_is_read(name, text, rows, tmp_path):
    (tmp_path / name).write_bytes(text.encode())
    assert read_file(tmp_path / name) == [PromptRow(*row) for row in rows]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.tsv", "Prompt\tCategory\na\tb\tc\n", "line 2 has 3 cells, and the header 2"),
        ("a.tsv", "Text of it\tCategory\n", "line 1: its header has no column Prompt; it has text"),
        ("a.csv", 'Prompts\n"a\n', "line 2: unexpected end of data"),
        ("a.txt", "a\n\nb\n", "line 2 is blank"),
        ("a.txt", "\n", "has no prompts"),
        ("a.jsonl", '{"prompt": 3}\n', "line 1: a prompt must be a string"),
        ("a.jsonl", '{"prompt": "a", "id": "x"}\n{"prompt": "b", "id": "x"}\n', "the id 'x'"),
        ("a.jsonl", '{"prompt": "a", "seed": -1}\n', "seed -1: must be 0.."),
        ("a.jsonl", '{"prompt": "a", "tag": 1}\n', "its category and its id must be texts"),
        ("a.jsonl", "[1]\n", "give an object"),
        ("a.jsonl", "{\n", "line 1 is not JSON"),
        ("a.json", "{}", "give a list of prompts"),
        ("a.json", '{"annotations": [{"image_id": 1}]}', "not the captions of MS-COCO"),
        ("a.parquet", "a", "give a .txt, .jsonl, .csv, .tsv or .json file"),
        ("a.txt", b"\xff\xfe\xfa", "it is not UTF-16"),
        ("a.txt", "x" * 5000, "line 1: a prompt has 5,000 characters"),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(name, text, said, tmp_path):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InputError) as e:
        read_file(tmp_path / name)
    assert said in str(e.value)
    assert str(e.value).startswith(f"--prompts {tmp_path / name}")
    assert "\n" not in str(e.value)


def test_a_captioned_image_gives_its_first_caption_and_the_choice_is_by_seed(tmp_path):
    (tmp_path / "c.json").write_text(coco(30))
    rows = read_coco(tmp_path / "c.json", num=10, seed=0)
    assert [row.id for row in rows] == sorted((row.id for row in rows), key=int)
    assert all(row.text == f"caption 0 of {row.id}." for row in rows)
    # by a hash, so that no library's random numbers decide it
    assert " ".join(row.id for row in rows) == "14 35 77 84 91 126 147 161 168 182"
    assert rows == read_coco(tmp_path / "c.json", num=10, seed=0)
    assert rows != read_coco(tmp_path / "c.json", num=10, seed=1)
    with pytest.raises(InputError, match="has captions of 30 images; 31 are needed"):
        read_coco(tmp_path / "c.json", num=31, seed=0)


def test_a_published_set_is_found_by_its_name_and_known_by_its_hash(tmp_path, monkeypatch):
    with pytest.raises(
        InputError, match=r"read from a file, PartiPrompts.tsv .* --prompt-sets DIR"
    ):
        open_set("partiprompts")
    with pytest.raises(InputError, match=r"has no captions_val2014.json or captions_val2017.json"):
        open_set("coco5k", tmp_path)
    (tmp_path / "PartiPrompts.tsv").write_text(PARTI)
    with pytest.raises(InputError, match="has 2 prompts, and the published one 1,632"):
        open_set("partiprompts", tmp_path)
    known = prompt_sets.PUBLISHED["partiprompts"]._replace(num=2)
    monkeypatch.setattr(prompt_sets, "PUBLISHED", {"partiprompts": known})
    other = open_set("partiprompts", tmp_path)
    assert (other.name, len(other.prompts), other.published) == ("partiprompts", 2, False)
    right = known._replace(sha256=other.sha256)
    monkeypatch.setattr(prompt_sets, "PUBLISHED", {"partiprompts": right})
    assert open_set("partiprompts", tmp_path, 1).published
    with pytest.raises(InputError, match=r"--limit 3: --prompts partiprompts has 2 prompts"):
        open_set("partiprompts", tmp_path, 3)
    with pytest.raises(InputError, match="--prompts part: no such set or file; give scenes"):
        open_set("part", tmp_path)


def test_a_limit_takes_prompts_from_all_over_the_file_in_their_order(tmp_path):
    (tmp_path / "p.txt").write_text("\n".join(f"prompt {i}" for i in range(400)))
    some = open_set(str(tmp_path / "p.txt"), limit=40).prompts
    numbers = [int(row.id) for row in some]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == 40
    assert 10 <= sum(number < 200 for number in numbers) <= 30
    assert {row.id for row in some} < {
        row.id for row in open_set(str(tmp_path / "p.txt"), limit=80).prompts
    }


def test_the_scenes_are_held_out_captions_and_more_of_them_begin_with_the_fewer():
    some = open_set("scenes", limit=60)
    assert some.prompts == open_set("scenes").prompts[:60]
    assert len(open_set("scenes").prompts) == 200
    for row in some.prompts:
        told = grammar.parse(row.text)
        assert row.category.split(", ")[0] == told["layout"]
        pairs = {(one["colour"], one["shape"]) for one in told["objects"]}
        assert pairs & grammar.HELD_OUT
        plain = all(one["texture"] is None and one["outline"] is None for one in told["objects"])
        assert row.category.endswith("plain") == plain
    with pytest.raises(InputError, match=r"--limit 0: give 1\.\."):
        open_set("scenes", limit=0)


def test_the_hash_is_of_the_content_alone():
    rows = (PromptRow("a", "x"), PromptRow("b", "y"))
    found = PromptSet("one", rows).sha256
    assert PromptSet("other", rows, True).sha256 == found
    changed = [
        rows[::-1],
        rows[:1],
        (rows[0], PromptRow("b", "z")),
        (rows[0], PromptRow("c", "y")),
        (rows[0], PromptRow("b", "y", "kind")),
        (rows[0], PromptRow("b", "y", seed=0)),
    ]
    assert len({found, *(PromptSet("one", other).sha256 for other in changed)}) == 7


def test_the_scenes_are_those_that_the_quickstart_judges():
    from cv3jax.evaluation.scenes import judged_scenes

    texts = [grammar.caption(scene) for scene in judged_scenes(20, 0)]
    assert [row.text for row in open_set("scenes", limit=20).prompts] == texts
