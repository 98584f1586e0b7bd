"""Expanding by a server: what is taken, what is refused, and what it costs to ask."""

import json
import re
import time

import pytest
from expansion_server import KEY, MODEL, expansion_server, long

from data_pipeline.expansion import run
from data_pipeline.expansion.template import load_template
from data_pipeline.io.errors import FailedRunError, InputError


def test_prompts_are_expanded_once_and_at_once(make, tmp_path):
    prompts = [f"a drawing of {i} things" for i in range(20)]
    with expansion_server(key=KEY, latency=0.02) as server:
        found = make(server).expand([*prompts, prompts[0]])
        assert sorted(server.asked) == sorted(prompts)
        assert 1 < server.most_at_once <= 8
        body = server.bodies[0]
        again = make(server).expand(prompts)
        assert make(server, run="other").expand(prompts) == found
        assert len(server.asked) == 20  # from the run's folder, and from the cache
    assert again == found
    template = load_template()
    assert {name: body[name] for name in template.settings} == template.settings
    assert body["messages"][:-1] == template.messages("x")[:-1]
    first = found[prompts[0]]
    assert (first.text, first.prompt, first.model) == (long(prompts[0]), prompts[0], MODEL)
    assert (first.template_sha256, first.fallback) == (template.sha256, "")
    assert first.tokens == len(first.text.split()) + 1
    kept = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert len(kept) == 60
    assert not [text for text in kept if KEY in text]


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ("<think>A user…\n\nwants Anna 9</think>\n\nAnna sits here.", "Anna sits here."),
        ("it is for Anna</think> Anna  sits\nhere.", "Anna sits here."),
        ("<answer>Anna sits here.</answer>", "Anna sits here."),
    ],
)
def test_reasoning_and_marks_are_removed(answer, text, make):
    with expansion_server({"*": [answer]}) as server:
        assert make(server).expand(["Anna"])["Anna"].text == text


# what a server does every time → what the message says, how often it was asked
WRONG = {
    "length": ("truncated answer", 1),
    "no-finish": ("no finish_reason, so the text may be cut", 1),
    "empty": ("empty answer", 1),
    "endless-thought": ("empty answer", 1),
    "refusal": ("refused", 1),
    "400": ("request rejected: 400", 1),
    "page": ("malformed response", 2),
    "half": ("malformed response", 2),
    "cut": ("malformed response", 2),
    "no-choices": ("malformed response: IndexError", 2),
    "bomb": ("malformed response: a response packed by gzip", 2),
    "huge": ("malformed response: a response of more than 1,048,576 bytes", 2),
    "500": ("server error: 500: status 500", 2),
    "drip": ("timeout: no complete response within 1 s", 1),
    # rejected by our own checks, after one correction
    "A picture of a woman.": ("rejected: the text lacks Anna of the prompt", 2),
    "Anna " * 40: ("rejected: the text takes 41 tokens, and the text encoder reads 40", 2),
}


@pytest.mark.parametrize(("action", "said"), WRONG.items(), ids=[key[:12] for key in WRONG])
def test_what_is_no_expansion_is_an_error_in_one_line(action, said, make, tmp_path):
    message, times = said
    slow = {"timeout": 1.0, "retries": 0} if action == "drip" else {}
    error = FailedRunError if action in ("500", "drip") else InputError
    with expansion_server({"*": [action]}, key=KEY) as server:
        with pytest.raises(error, match=re.escape(message)) as e:
            make(server, **slow).expand(["Anna"])
        # on a slow machine the client may give up before the server has read its request
        assert len(server.asked) == times or (slow and not server.asked)
        assert list(tmp_path.iterdir()) == []
        assert "--expand-fallback" in str(e.value)
        assert "\n" not in str(e.value)
        assert KEY not in str(e.value)
        expander = make(server, fallback=True, **slow)
        found = expander.expand(["Anna"])["Anna"]
        assert (found.text, found.tokens) == ("Anna", 2)
        assert message in found.fallback
        # the run draws it so again; other runs ask
        assert expander.expand(["Anna"])["Anna"] == found
        assert len(server.asked) == 2 * times or slow
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("action", ["500", "429", "cut", "page"])
def test_what_may_not_recur_is_asked_again(action, make):
    with expansion_server({"*": [action, "Anna again."]}) as server:
        assert make(server).expand(["Anna"])["Anna"].text == "Anna again."
        assert len(server.asked) == 2


def test_a_rejected_text_is_sent_back_once_with_its_fault(make):
    with expansion_server({"*": ["A woman with 2 dogs.", "Anna with 2 dogs."]}) as server:
        assert make(server).expand(["Anna, 2 dogs"])["Anna, 2 dogs"].text == "Anna with 2 dogs."
    chat = server.chats[1]
    assert chat[:-2] == server.chats[0]
    assert chat[-2] == {"role": "assistant", "content": "A woman with 2 dogs."}
    assert "lacks Anna of the prompt" in chat[-1]["content"]


@pytest.mark.parametrize("fallback", [False, True])
def test_a_wrong_key_model_or_address_is_never_passed_over(fallback, make, tmp_path):
    with expansion_server({"*": ["redirect"]}, key="another") as server:
        with pytest.raises(
            InputError, match=r"does not accept the API key .*--expand-key-env"
        ) as e:
            make(server, fallback=fallback).expand(["a"])
        assert KEY not in str(e.value)
        server.key = None
        with pytest.raises(InputError, match=r"no such model or path .*--expand-model"):
            make(server, fallback=fallback, model="no").expand(["a"])
        with pytest.raises(InputError, match=r"redirects to .*final address as --expand"):
            make(server, fallback=fallback).expand(["a"])
    with pytest.raises(InputError, match="no connection"):
        make(server).expand(["a"])
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_gone_ends_a_run_with_fallback_too(make, tmp_path):
    prompts = [f"{i} things" for i in range(50)]
    with expansion_server({"*": ["500"]}) as server:
        expander = make(server, fallback=True, retries=0)
        with pytest.raises(FailedRunError, match=f"the last {run.HOPELESS} prompts had no answer"):
            expander.expand(prompts)
        assert len(server.asked) < 2 * run.HOPELESS
        assert list(tmp_path.iterdir()) == []
        found = make(server, fallback=True, retries=0).expand(prompts[:3])
    assert [each.text for each in found.values()] == prompts[:3]


def test_answers_before_an_error_are_not_lost(make):
    with expansion_server({"b": ["length", "b, longer"]}) as server:
        with pytest.raises(InputError, match="truncated"):
            make(server, at_once=1).expand(["a", "b", "c"])
        make(server).expand(["a", "b", "c"])
    assert server.asked == ["a", "b", "b", "c"] or server.asked == ["a", "b", "c", "b"]


def test_a_cached_text_is_checked_for_the_cascade_that_draws_it(make):
    with expansion_server({"*": ["a " * 30, "a " * 9]}) as server:
        assert make(server, run=None).expand(["a"])["a"].tokens == 31
        assert make(server, run=None, length=20).expand(["a"])["a"].tokens == 10
        same_length = make(server, run=None)
        assert same_length.expand(["a"])["a"].tokens == 31
        assert len(server.asked) == 2
        same_length.tokenize.count = lambda text: 2 * len(text.split())
        assert same_length.expand(["a"])["a"].tokens == 18
    assert len(server.asked) == 3


def test_what_another_process_kept_first_is_drawn(make, tmp_path):
    with expansion_server({"*": ["a one", "a two"]}) as server:
        slow = make(server, cache=None)
        key = slow._key("a")
        first = make(server, cache=None).expand(["a"])["a"]
        second = make(server, run=None, cache=None).expand(["a"])["a"]
        assert (first.text, second.text) == ("a one", "a two")
        assert slow.stores[0].put(key, second) == first  # as if both had asked at once
        assert slow.expand(["a"])["a"] == first
    (path,) = tmp_path.rglob("*.json")
    path.write_text(path.read_text()[:-9])
    with pytest.raises(InputError, match=r"json is damaged .*remove it"):
        slow.expand(["a"])


def test_a_drip_takes_no_longer_than_the_timeout(make):
    with expansion_server({"*": ["drip"]}) as server:
        began = time.monotonic()
        with pytest.raises(FailedRunError, match="timeout"):
            make(server, timeout=0.3, retries=0).expand(["a"])
    assert time.monotonic() - began < 10


def test_an_expansion_of_another_template_is_another_one(make, tmp_path):
    other = tmp_path / "t.json"
    other.write_text(json.dumps({"request": "More: <prompt>{prompt}</prompt>"}))
    with expansion_server() as server:
        first = make(server).expand(["a"])["a"]
        second = make(server, template=other).expand(["a"])["a"]
    assert len(server.asked) == 2
    assert first.template_sha256 != second.template_sha256
    assert server.chats[1] == [{"role": "user", "content": "More: <prompt>a</prompt>"}]
    assert server.bodies[1]["max_tokens"] == 300
