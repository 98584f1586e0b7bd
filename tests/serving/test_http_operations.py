"""Test what operators see: health, metrics, the log, headers, hosts and origins, expansion."""

import json
from unittest import mock

import http_server
import openai
import pytest
from expansion_server import MODEL, expansion_server
from prometheus_client.parser import text_string_to_metric_families

from cv3jax.checkpoints import cascades
from cv3jax.commands import serve
from cv3jax.commands.expansion_flags import expansion_of
from cv3jax.serving.http.expansions import expander_of
from cv3jax.web.gate import Access, hosts_of
from data_pipeline.expansion.served import ServedModel
from data_pipeline.io.errors import InputError

DRAW = "/v1/images/generations"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with http_server.running(tmp_path_factory.mktemp("serve") / "data") as found:
        yield found


def samples(server) -> dict[tuple, float]:
    """Return the value of each sample by its name and labels."""
    return {
        (one.name, *sorted(one.labels.values())): one.value
        for family in text_string_to_metric_families(server.get("/metrics").body.decode())
        for one in family.samples
    }


def test_alive_and_ready(server):
    assert server.get("/healthz").json == {"status": "alive"}
    assert server.get("/readyz").json == {"status": "ready"}
    server.engine.alive = 0.0
    dead, unready = server.get("/healthz"), server.get("/readyz")
    server.engine.alive = 1.0
    assert (dead.status, dead.json) == (503, {"status": "engine dead"})
    assert unready.status == 503


def test_metrics_count_requests_jobs_pictures_and_refusals(server):
    before = samples(server)
    server.post(DRAW, {"prompt": "a star", "n": 2})
    server.post(DRAW, {"prompt": "a star", "n": 0})
    server.post(DRAW, {"prompt": "fail"})
    server.get("/v1/jobs/secret-of-somebody")
    after = samples(server)

    def more(*key: str) -> float:
        return after[key] - before.get(key, 0.0)

    assert more("cv3jax_jobs_total", "generation") == 2
    assert more("cv3jax_pictures_total", "drawn") == 2
    assert more("cv3jax_errors_total", "drawing") == 1
    assert more("cv3jax_refused_total", "invalid_value") == 1
    assert more("cv3jax_requests_total", DRAW, "200") == 1
    assert more("cv3jax_requests_total", DRAW, "400") == 1
    assert more("cv3jax_requests_total", "/v1/jobs/{id}", "404") == 1
    assert after["cv3jax_engine_steps_total",] == 1.0
    assert after["cv3jax_engine_rows_waiting", "base 64"] == 0.0
    assert not any("secret" in str(key) for key in after)


def test_capabilities(server):
    said = server.get("/v1/capabilities").json
    assert said["sizes"] == [["64x64", "128x128"], ["96x64", "192x128"], ["64x64"]]
    assert said["default_size"] == "128x128"
    assert said["enlargements"] == [["64x64", "128x128"], ["96x64", "192x128"]]
    assert said["stages"]["base"]["distilled"]["steps"] == 4
    assert said["engine"] == {"kind": "squares", "step_seconds": 0.0}
    assert (said["expand"], said["safety"], said["max_n"]) == (False, False, 10)
    assert said["limits"]["max_wait"] == 300.0


def test_a_stage_has_no_more_steps_than_times(tmp_path):
    args = serve.parser().parse_args(["--checkpoint", "scenes_teacher"])
    teacher = serve.model_of(args, *cascades.read_cascade("scenes_teacher"))
    with http_server.running(tmp_path / "data", model=teacher) as server:
        stages = server.get("/v1/capabilities").json["stages"]
        assert [stages[name]["max_steps"] for name in ("base", "relay")] == [1000, 40]
        assert server.post(DRAW, {"prompt": "a star", "steps": [1000, 40]}).status == 200
        answer = server.post(DRAW, {"prompt": "a star", "steps": [20, 41]})
        assert (answer.status, answer.code) == (400, "invalid_value")
        assert answer.json["error"]["message"].endswith("starts at t = 40: give 1..40 steps")


def test_what_cannot_be_is_said_before_minutes_of_compiling(tmp_path):
    data = tmp_path / "data"
    argv = ["--checkpoint", "scenes", "--port", "0", "--workdir", str(data)]
    with mock.patch.object(serve, "open_engine", side_effect=AssertionError("it compiled")):
        with pytest.raises(InputError, match=r"--access-log .*: No such file or directory; give"):
            serve.main([*argv, "--access-log", str(tmp_path / "nowhere" / "log")])
        expanding = ("--expand", "http://127.0.0.1:9/v1", "--expand-model", MODEL)
        with (
            mock.patch.object(ServedModel, "load", side_effect=InputError("no weights")),
            pytest.raises(InputError, match="no weights"),
        ):
            serve.main([*argv, *expanding])
        (data / "journal.sqlite").write_bytes(b"of another program" * 99)
        with pytest.raises(InputError, match=r"journal\.sqlite is no journal"):
            serve.main(argv)


def test_the_page_may_do_nothing_but_show(server):
    page = server.get("/")
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    for name, value in (
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
    ):
        assert page.headers[name] == value
    assert "server" not in page.headers
    assert server.get("/healthz").headers["cache-control"] == "no-store"


def test_the_log_has_no_prompts_unless_they_are_asked_for(tmp_path):
    for prompts in (False, True):
        log = tmp_path / f"log-{prompts}"
        with http_server.running(tmp_path / "data", log=str(log), log_prompts=prompts) as server:
            job = server.post("/v1/jobs", {"prompt": "a secret star"}).json
            url = server.wait(job["id"])["pictures"][0]["url"]
            server.get(url.removeprefix(server.address))
            server.get("/x%0a%7b%22forged%22:1%7d?prompt=secret")
        text = log.read_text()
        lines = [json.loads(line) for line in text.splitlines()]
        assert ("secret" in text) == prompts
        posted = lines[0]
        assert (posted["method"], posted["route"], posted["status"]) == ("POST", "/v1/jobs", 202)
        assert posted["job"] == job["id"]
        assert posted.get("prompt") == ("a secret star" if prompts else None)
        assert url.rpartition("/")[2] not in text  # a file's name is a secret
        assert lines[-1]["route"] == "unknown"
        assert not any("forged" in line for line in lines)


def test_other_names_and_origins(tmp_path):
    public, star = "https://draw.example:8443", {"prompt": "a star"}
    access = Access(None, ("https://app.example",), hosts_of("127.0.0.1", public), public)
    with http_server.running(tmp_path / "data", access=access, public=public) as server:
        for host in ("localhost:1", "127.0.0.1", "[::1]:80", "draw.example:8443"):
            assert server.get("/v1/models", Host=host).status == 200
        assert server.get("/v1/models", Host="draw.example.evil").code == "unknown_host"
        made = server.post(DRAW, {**star, "response_format": "url"}).json
        url = made["data"][0]["url"]
        assert url.startswith(f"{public}/v1/files/")
        shown = server.get(url.removeprefix(public)).headers  # in an <img> of any page
        assert shown["cross-origin-resource-policy"] == "cross-origin"
        own = server.post(DRAW, star, Origin=server.address)
        assert own.status == 200
        assert "access-control-allow-origin" not in own.headers
        assert server.post(DRAW, star, Origin=public).status == 200  # of its page, by a proxy
        other = server.post(DRAW, star, Origin="https://app.example")
        assert other.headers["access-control-allow-origin"] == "https://app.example"
        assert server.post(DRAW, star, Origin="https://evil.example").status == 403
        asked = {"Origin": "https://app.example", "Access-Control-Request-Method": "POST"}
        asked["Access-Control-Request-Headers"] = "authorization,x-stainless-lang"
        assert server.ask("OPTIONS", DRAW, None, asked).status == 200
        asked["Origin"] = "https://evil.example"
        assert server.ask("OPTIONS", DRAW, None, asked).status == 400


def test_nothing_is_allowed_to_other_origins_by_default(server):
    answer = server.get("/v1/models", Origin="https://evil.example")
    assert not any(name.startswith("access-control") for name in answer.headers)


def test_all_names_are_answered_where_others_reach_the_server():
    assert hosts_of("0.0.0.0", None) is None
    assert hosts_of("127.0.0.2", None) == {"localhost"}


def expander(url: str, *flags: str):
    argv = ["--checkpoint", "scenes", "--expand", url, "--expand-model", MODEL]
    args = serve.parser().parse_args([*argv, *flags])
    return expander_of(expansion_of(args), http_server.model().tokenize)


def test_expand_draws_the_text_of_a_language_model(tmp_path):
    cache = ("--expand-cache", str(tmp_path / "cache"))
    actions = {"a bad star": ("refusal",), "a red star": ("a very red star",)}
    failed = ("an expansion failed: refused",)
    with (
        expansion_server(actions) as model,
        http_server.running(tmp_path / "data", expander=expander(model.url, *cache)) as server,
    ):
        shown = server.post("/v1/expansions", {"prompt": "a red star"}).json
        assert (shown["revised_prompt"], shown["fallback"]) == ("a very red star", "")
        made = server.openai().images.generate(prompt="a red star", extra_body={"expand": True})
        assert made.data[0].revised_prompt == "a very red star"
        assert server.engine.submitted[-1].prompt == "a very red star"
        assert model.asked == ["a red star"]  # the second time it is kept
        plain = server.openai().images.generate(prompt="a red star")
        assert plain.data[0].revised_prompt is None
        assert server.engine.submitted[-1].prompt == "a red star"
        assert server.get("/v1/capabilities").json["expand"] is True
        with pytest.raises(openai.InternalServerError) as e:  # what the model said stays here
            server.openai().images.generate(prompt="a bad star", extra_body={"expand": True})
        assert (e.value.status_code, e.value.code) == (502, "expansion_failed")
        assert "sorry" not in e.value.message
        # the log has no prompts, and what a model says has words of them
        assert [line for line in server.said if "expansion" in line] == [*failed]
        assert len(server.engine.submitted) == 2
