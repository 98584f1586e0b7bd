"""Test that a language model in the server's own process holds nobody else up."""

import threading

import http_server
import language_models
import pytest

from cv3jax.commands import serve
from cv3jax.commands.expansion_flags import expansion_of
from cv3jax.serving.http.expansions import expander_of

torch = pytest.importorskip("torch", reason="make setup-torch")
DRAW = "/v1/images/generations"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return language_models.write(tmp_path_factory.mktemp("model") / "tiny", positions=4096)


def test_prompts_are_expanded_one_after_the_other_beside_the_loop(folder, tmp_path, monkeypatch):
    from transformers import LlamaForCausalLM

    said, asked, go = ["a", "red", "fox", "in", "snow", "<end>"], [], threading.Event()

    def generate(self, input_ids, **how):
        asked.append(threading.current_thread())
        go.wait()
        new = torch.tensor([[language_models.WORDS.index(word) for word in said]])
        return torch.cat([input_ids, new], dim=1)

    monkeypatch.setattr(LlamaForCausalLM, "generate", generate)
    flags = ["--checkpoint", "scenes", "--expand", str(folder), "--expand-cache"]
    args = serve.parser().parse_args([*flags, str(tmp_path / "cache")])
    expander = expander_of(expansion_of(args), http_server.model().tokenize)
    with http_server.running(tmp_path / "data", expander=expander) as server:
        answers = []
        clients = [
            threading.Thread(
                target=lambda text=text: answers.append(
                    server.post(DRAW, {"prompt": text, "expand": True})
                )
            )
            for text in ("a fox", "snow")
        ]
        for client in clients:
            client.start()
        while not asked:
            assert server.get("/healthz").status == 200
        assert server.post(DRAW, {"prompt": "a star"}).status == 200  # as it is, meanwhile
        assert len(asked) == 1
        go.set()
        for client in clients:
            client.join()
        assert [answer.status for answer in answers] == [200, 200]
        texts = {answer.json["data"][0]["revised_prompt"] for answer in answers}
        assert texts == {"a red fox in snow"}
        assert len(asked) == 2
        assert server.thread not in asked
        said[:] = ["red"] * 3  # without an end
        cut = server.post(DRAW, {"prompt": "fox", "expand": True})
        assert (cut.status, cut.code) == (502, "expansion_failed")
        lines = [line for line in server.said if "expansion" in line]
        assert lines == ["an expansion failed: truncated answer"]
