"""Test that several processes recaption one dataset, each some of its shards."""

import collections
import json
import os
import shutil

import pytest
from caption_answers import KEY, MODEL
from caption_server import CaptionServer
from recaption_runs import COUNT, TURNS, lines, number

from data_pipeline.chat import rate_limit
from data_pipeline.chat.endpoint import StoppedByServerError
from data_pipeline.io.errors import InputError
from data_pipeline.io.shares import Share, given_share, parse_share
from data_pipeline.recaption import parts
from data_pipeline.recaption.command import command, parser
from data_pipeline.recaption.journal import Journal
from data_pipeline.recaption.output import REPORT, SameShards
from data_pipeline.records.records import RecordWriter, open_records

LENGTHS = (11, 10, 10)


@pytest.fixture(autouse=True)
def no_slow_start(monkeypatch):
    monkeypatch.setattr(rate_limit, "FIRST", 2000.0)


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != REPORT}


@pytest.mark.parametrize("count", [2, 3])
def test_parts_make_the_dataset_that_one_process_makes(ask, tmp_path, count):
    with CaptionServer() as server:
        alone = ask(server)
        whole = content(tmp_path / "out")
        (tmp_path / "out").rename(tmp_path / "alone")
        (tmp_path / "out.recaption").rename(tmp_path / "alone.recaption")
        reports = [ask(server, share=Share(i, count)) for i in reversed(range(count))]
    assert [report.get("lacking") for report in reports] == [
        *(list(range(i)) for i in range(count - 1, 0, -1)),
        None,
    ]
    assert not (tmp_path / "out.parts").exists()
    assert content(tmp_path / "out") == whole
    last = json.loads((tmp_path / "out" / REPORT).read_bytes())
    assert last == reports[-1]
    assert last["parts"] == count
    same = ("records", "recaptioned", "reasons", "requests", "retries", "tokens", "cost", "model")
    assert {name: last[name] for name in same} == {name: alone[name] for name in same}


def test_each_part_asks_about_its_own_shards_only(ask, tmp_path):
    with CaptionServer() as server:
        ask(server, share=Share(1, 2))
        asked = {seen.record for seen in server.seen}
    assert len(asked) == LENGTHS[1]  # shard 1 of 0, 1, 2
    kept = {record for record, _, _ in lines(tmp_path / "out.recaption" / "part_1_of_2")}
    assert kept == asked
    assert not (tmp_path / "out").exists()


def test_a_part_that_was_stopped_repeats_no_answer(ask, tmp_path):
    with CaptionServer(lambda r, t, a: "ok" if r < 6 else "broke") as server:
        with pytest.raises(StoppedByServerError):
            ask(server, share=Share(0, 2))
        first = collections.Counter((s.record, s.turn) for s in server.seen if s.action == "ok")
    with CaptionServer() as server:
        ask(server, share=Share(0, 2))
        again = collections.Counter((seen.record, seen.turn) for seen in server.seen)
        assert not first & again
        assert sum((first + again).values()) == TURNS * (LENGTHS[0] + LENGTHS[2])
        ask(server, share=Share(1, 2))
    after = open_records(tmp_path / "out")
    assert after.lengths == LENGTHS
    assert all(record["recaption"] for record in after)


def test_a_finished_part_asks_nothing_and_the_finished_dataset_stays(ask, tmp_path):
    with CaptionServer() as server:
        first = ask(server, share=Share(0, 2))
        sent = len(server.seen)
        assert ask(server, share=Share(0, 2)) == first
        assert len(server.seen) == sent
        whole = ask(server, share=Share(1, 2))
        before = content(tmp_path / "out")
        sent = len(server.seen)
        assert ask(server, share=Share(0, 2)) == whole
        assert len(server.seen) == sent
        assert content(tmp_path / "out") == before


def test_failures_of_parts_are_asked_again(ask, data, tmp_path):
    with CaptionServer(lambda r, t, a: "502" if r in (3, 11) else "ok") as server:
        for i in range(2):
            report = ask(server, share=Share(i, 2), retries=0)
    assert report["reasons"] == {"server error": 2}
    lost = {number(record) for record in open_records(tmp_path / "out") if not record["recaption"]}
    assert lost == {3, 11}
    with CaptionServer() as server:
        for i in range(2):
            report = ask(server, share=Share(i, 2), retry_failed=True)
        assert {seen.record for seen in server.seen} == {3, 11}
    assert report["recaptioned"] == COUNT
    assert all(record["recaption"] for record in open_records(tmp_path / "out"))


def test_jobs_that_do_not_fit_are_refused(ask, tmp_path):
    with CaptionServer() as server:
        with pytest.raises(InputError, match=r"--part 3/4: the dataset has 3 shards"):
            ask(server, share=Share(3, 4))
        for changes in ({"limit": 3}, {"triplets": tmp_path / "t.json"}):
            with pytest.raises(InputError, match=r"--(limit|triplets) and --part"):
                ask(server, share=Share(0, 2), **changes)
        ask(server, share=Share(0, 2))
        with pytest.raises(InputError, match=r"answers of 2 parts, not 3; give --part I/2"):
            ask(server, share=Share(0, 3))
        with pytest.raises(InputError, match=r"answers of 2 parts, not 1; give --part I/2"):
            ask(server)
        with pytest.raises(InputError, match=r"was begun with another model"):
            ask(server, share=Share(1, 2), model="other")
        (tmp_path / "out.parts" / "mine.txt").write_text("x")
        with pytest.raises(InputError, match=r"holds 'mine.txt', which this command did not write"):
            ask(server, share=Share(1, 2))


def test_a_part_is_made_by_one_process_at_a_time(ask, tmp_path):
    folder = tmp_path / "out.recaption" / "part_0_of_2"
    with (
        CaptionServer() as server,
        Journal(folder, {}, turns=TURNS),
        pytest.raises(InputError, match="in use by another process"),
    ):
        ask(server, share=Share(0, 2))


@pytest.mark.parametrize("step", ["describe", "write_sizes", "replace_directory"])
def test_a_kill_while_the_dataset_is_published_is_made_up_for(ask, step, tmp_path, monkeypatch):
    class KilledError(BaseException):
        pass

    own = getattr(parts, step)

    def killed(*args, **options):
        if step != "replace_directory":
            own(*args, **options)
        raise KilledError

    with CaptionServer() as server:
        ask(server, share=Share(0, 2))
        with monkeypatch.context() as patched:
            patched.setattr(parts, step, killed)
            with pytest.raises(KilledError):
                ask(server, share=Share(1, 2))
        assert not (tmp_path / "out").exists()
        sent = len(server.seen)
        report = ask(server, share=Share(0, 2))
        assert len(server.seen) == sent
    assert report["parts"] == 2
    assert all(record["recaption"] for record in open_records(tmp_path / "out"))


def test_what_a_kill_after_the_rename_leaves_is_removed(ask, tmp_path):
    with CaptionServer() as server:
        for i in range(2):
            report = ask(server, share=Share(i, 2))
        for name in ("job.json", "part_0.json", "part_1.writing"):
            (tmp_path / "out" / name).write_text("{}")
        assert ask(server, share=Share(1, 2)) == report
    assert not [*(tmp_path / "out").glob("part_*"), *(tmp_path / "out").glob("job.json")]


def test_parts_of_other_records_are_not_one_dataset(ask, data, tmp_path):
    other = tmp_path / "other"
    with RecordWriter(other, shards=3) as writer:
        for record in reversed(list(open_records(data))):
            writer.write(record)
    assert open_records(other).lengths == open_records(data).lengths
    with CaptionServer() as server:
        ask(server, share=Share(0, 2))
        with pytest.raises(InputError, match="another model, dialogue, input or number of parts"):
            ask(server, share=Share(1, 2), data=other)
        ask(server, share=Share(1, 2))
        with pytest.raises(InputError, match="already holds records"):
            ask(server, share=Share(1, 2), data=other)


def test_a_part_without_any_caption_is_done_too(ask, tmp_path):
    with CaptionServer(lambda r, t, a: "refusal" if r % 3 == 1 else "ok") as server:
        assert ask(server, share=Share(1, 2))["recaptioned"] == 0
        report = ask(server, share=Share(0, 2))
    assert (report["recaptioned"], report["reasons"]) == (21, {"refused": 10})
    assert open_records(tmp_path / "out").lengths == LENGTHS


def test_a_dataset_without_any_caption_is_refused(ask, tmp_path):
    with CaptionServer(lambda r, t, a: "refusal") as server:
        ask(server, share=Share(1, 2))
        with pytest.raises(InputError, match="no record got a new caption: refused"):
            ask(server, share=Share(0, 2))
    assert not (tmp_path / "out").exists()


def test_a_share_of_empty_shards_is_done_at_once(ask, data, tmp_path):
    few = tmp_path / "few"
    with SameShards(few, (2, 2, 0)) as writer:
        for record in list(open_records(data))[:4]:
            writer.write(record)
    with CaptionServer() as server:
        assert ask(server, share=Share(2, 3), data=few)["records"] == 0
        for i in range(2):
            report = ask(server, share=Share(i, 3), data=few)
    assert (report["records"], report["recaptioned"]) == (4, 4)
    assert open_records(tmp_path / "out").lengths == (2, 2, 0)


def test_parts_that_failed_wait_for_their_own_retry(ask, tmp_path):
    with CaptionServer(lambda r, t, a: "502" if r in (3, 11) else "ok") as server:
        ask(server, share=Share(0, 3), retries=0)
        ask(server, share=Share(1, 3), retries=0)
    with CaptionServer() as server:
        assert ask(server, share=Share(1, 3), retry_failed=True)["lacking"] == [0, 2]
        assert ask(server, share=Share(2, 3))["lacking"] == [0]
        report = ask(server, share=Share(0, 3), retry_failed=True)
    assert (report["recaptioned"], report["reasons"]) == (COUNT, {})


def test_failures_that_stay_are_published(ask):
    with CaptionServer(lambda r, t, a: "502" if r in (3, 10) else "ok") as server:
        ask(server, share=Share(0, 2), retries=0)
        ask(server, share=Share(0, 2), retries=0, retry_failed=True)
        assert ask(server, share=Share(1, 2), retries=0)["lacking"] == [1]
        report = ask(server, share=Share(1, 2), retries=0, retry_failed=True)
    assert report["reasons"] == {"server error": 2}


def test_something_that_appears_meanwhile_is_not_replaced(ask, data, tmp_path):
    with CaptionServer() as server:
        ask(server, share=Share(0, 2))
        shutil.copytree(data, tmp_path / "out")
        with pytest.raises(InputError, match="already holds records"):
            ask(server, share=Share(1, 2))
    assert open_records(tmp_path / "out")[1]["recaption"] == ""


def test_a_trial_without_answers_fixes_no_number_of_parts(ask):
    with CaptionServer(lambda r, t, a: "401") as server, pytest.raises(InputError):
        ask(server)
    with CaptionServer() as server:
        assert ask(server, share=Share(0, 2))["lacking"] == [1]


def test_the_command_takes_its_part_from_a_flag_or_the_environment(
    data, template, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with CaptionServer() as server:
        flags = ["--endpoint", server.url, "--model", MODEL, "--dialogue", str(template)]
        flags += ["--input", str(data), "--out", str(tmp_path / "out")]
        command(parser().parse_args([*flags, "--part", "1/2"]))
        assert "(part 1 of 2; " in capsys.readouterr().out
        monkeypatch.setenv("SLURM_PROCID", "0")
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
        report = command(parser().parse_args(flags))
    assert report["parts"] == 2
    assert report["records"] == COUNT


@pytest.mark.parametrize("text", ["", "1", "4/4", "-1/4", "1/4/2", "a/b", "1 /4", "٣/4", "0/0"])
def test_a_part_has_two_numbers(text):
    with pytest.raises(InputError, match=r"give I/N, such as 0/4"):
        parse_share(text)


def test_the_flags_decide_then_jax_then_slurm(monkeypatch):
    for name in [name for name in os.environ if name.startswith(("SLURM_", "JAX_PROCESS"))]:
        monkeypatch.delenv(name)
    assert given_share() is None
    assert parse_share("2/8") == Share(2, 8)
    monkeypatch.setenv("SLURM_PROCID", "1")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    assert given_share() == Share(1, 4)
    monkeypatch.setenv("JAX_PROCESS_ID", "2")
    monkeypatch.setenv("JAX_NUM_PROCESSES", "3")
    assert given_share() == Share(2, 3)
    assert given_share(0, 5) == Share(0, 5)
    with pytest.raises(InputError, match=r"--num-processes is not given"):
        given_share(0, None)
