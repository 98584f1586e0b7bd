"""Test that JSON and YAML are parsed in one place each, where their limits are.

The sources are read without running them. The test lists all other calls at once.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARSERS = {
    "data_pipeline/io/bounded_json.py": {"json"},
    "data_pipeline/io/bounded_yaml.py": {"yaml"},
}
MODULES = {"json", "yaml", "simplejson", "orjson", "ujson", "tomllib"}
# names that parse; yaml's dump and the node classes are free to all
READS = {"load", "loads", "load_all", "safe_load", "safe_load_all", "full_load", "full_load_all"}
READS |= {"unsafe_load", "unsafe_load_all", "JSONDecoder", "SafeLoader", "Loader", "CSafeLoader"}
READS |= {"FullLoader", "CLoader", "UnsafeLoader", "CFullLoader", "CUnsafeLoader", "BaseLoader"}


def readers(source: str, allowed: frozenset | set = frozenset()) -> list[str]:
    """Return the calls and imports of parsers in a source, with their lines.

    allowed: modules whose parsers it may call. A method `json()` is an HTTP response's.
    """
    tree = ast.parse(source)
    names = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {a.asname or a.name: a.name for a in node.names if a.name in MODULES}
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in MODULES - allowed:
            wrong = [f"{node.module}.{a.name}" for a in node.names if a.name in READS]
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = names.get(node.value.id)
            fine = module is None or module in allowed or node.attr not in READS
            wrong = [] if fine else [f"{module}.{node.attr}"]
        else:
            wrong = []
        called = isinstance(node, ast.Call) and not node.args
        if called and isinstance(node.func, ast.Attribute) and node.func.attr == "json":
            wrong = [".json()"]
        found += [f"line {node.lineno}: {each}" for each in wrong]
    return found


def test_json_and_yaml_are_parsed_in_one_place():
    files = [
        p
        for folder in ("cv3jax", "data_pipeline", "configs")
        for p in ROOT.glob(f"{folder}/**/*.py")
    ]
    wrong = {}
    for path in files:
        name = path.relative_to(ROOT).as_posix()
        if found := readers(path.read_text(), PARSERS.get(name, set())):
            wrong[name] = found
    assert len(files) > 200
    assert wrong == {}
    assert all(readers((ROOT / name).read_text()) for name in PARSERS)


@pytest.mark.parametrize(
    "source",
    [
        "import json\njson.loads('1')",
        "import json as j\ndef f(x):\n    return map(j.load, x)",
        "from json import loads",
        "from yaml import CSafeLoader",
        "import yaml\nyaml.load('1', yaml.SafeLoader)",
        "import tomllib\ntomllib.loads('')",
        "def f(answer):\n    return answer.json()['data']",
    ],
)
def test_a_parser_is_seen(source):
    assert readers(source)
    assert not readers("import json, yaml\njson.dumps(1)\nyaml.safe_dump(1)\nx.json(y)\nx.load(1)")
