"""A local model: a tiny random one, with the words of its tokenizer's template."""

import asyncio
import json

import language_models
import pytest
from language_models import WORDS

from data_pipeline.chat import answers
from data_pipeline.chat.answers import Answer, Failure
from data_pipeline.expansion.local import LocalModel, check_local
from data_pipeline.expansion.settings import ExpandSettings
from data_pipeline.io.errors import InputError

torch = pytest.importorskip("torch", reason="make setup-torch")
CHAT = [{"role": "system", "content": "a red"}, {"role": "user", "content": "fox"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return language_models.write(tmp_path_factory.mktemp("model") / "tiny")


def ask(model: LocalModel, chat=CHAT) -> Answer | Failure:
    async def once():
        async with model:
            return await model.answer(chat)

    return asyncio.run(once())


def saying(folder, words: list[str], monkeypatch, **settings) -> LocalModel:
    """Return the model, made to say these words and nothing else."""
    from transformers import LlamaForCausalLM

    tokens = [WORDS.index(word) for word in words]

    def generate(self, input_ids, **how):
        new = torch.tensor([tokens[: how["max_new_tokens"]]])
        return torch.cat([input_ids, new], dim=1)

    monkeypatch.setattr(LlamaForCausalLM, "generate", generate)
    return LocalModel(folder, None, {"max_tokens": 5, **settings})


def test_an_answer_ends_with_the_end_token(folder, monkeypatch):
    assert ask(saying(folder, ["a", "red", "fox", "<end>"], monkeypatch)).text == "a red fox"
    cut = ask(saying(folder, ["a", "red", "fox"], monkeypatch, max_tokens=2))
    assert (cut.reason, cut.detail) == (answers.TRUNCATED, "a red")
    assert ask(saying(folder, ["<end>"], monkeypatch)).reason == answers.EMPTY
    long = [{"role": "user", "content": "fox " * 64}]
    too_long = ask(saying(folder, ["a", "<end>"], monkeypatch), long)
    assert (too_long.reason, too_long.detail) == (
        answers.REJECTED,
        "the chat has 66 tokens, the model reads 64",
    )


def test_the_same_question_has_the_same_answer(folder):
    """The model is random, so it goes on until its answer is cut."""
    warm = {"max_tokens": 20, "temperature": 5.0}
    first, second = (ask(LocalModel(folder, None, warm)) for _ in range(2))
    assert first == second
    assert ask(LocalModel(folder, None, {**warm, "seed": 1})) != first
    cold = {"max_tokens": 20, "temperature": 0.01}
    assert ask(LocalModel(folder, None, cold)) == ask(LocalModel(folder, None, cold))


def test_a_template_without_system_messages_gets_one_message(folder, monkeypatch):
    model = saying(folder, ["a", "<end>"], monkeypatch)
    model.load()
    seen = []

    def apply(chat, **how):
        if chat[0]["role"] == "system":
            raise ValueError("System role not supported")
        seen.append(chat)
        return {"input_ids": torch.tensor([[3, 4]])}

    monkeypatch.setattr(model._tokenizer, "apply_chat_template", apply)
    assert model._answer(CHAT).text == "a"
    assert seen == [[{"role": "user", "content": "a red\n\nfox"}]]


def test_a_name_changes_with_the_files(folder, tmp_path):
    name = LocalModel(folder, None, {"max_tokens": 5}).name
    assert name.startswith("tiny (")
    assert LocalModel(folder, "mine", {"max_tokens": 5}).name == name.replace("tiny", "mine")
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny" / "config.json").write_text(json.dumps(config))
    assert LocalModel(tmp_path / "tiny", None, {"max_tokens": 5}).name != name


def test_what_is_no_model_is_said_in_one_line(folder, tmp_path):
    with pytest.raises(InputError, match=r"give a server's address like .* or a \.gguf file"):
        check_local(tmp_path, {})
    for settings, said in (
        ({"frequency_penalty": 1}, "sets 'frequency_penalty', which only servers know"),
        ({"temperature": "hot"}, "temperature is hot; give 0 to 10"),
        ({"top_p": 2}, "top_p is 2; give 0 to 1"),
    ):
        with pytest.raises(InputError, match=said):
            check_local(folder, settings)
    with pytest.raises(InputError, match="--expand-key-env goes with a server's address"):
        ExpandSettings(str(folder), key="k").check()
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(InputError, match="is not a model that transformers can load") as e:
        ask(LocalModel(tmp_path, None, {"max_tokens": 5}))
    assert "\n" not in str(e.value)
