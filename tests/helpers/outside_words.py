"""Places of data at which words from outside come in, and commands that say something about them.

The words have escapes, control characters, marks of direction, line breaks and half characters.
"""

import contextlib
import json
import os

import raw_server
from hostile_parquets import rows, written
from hostile_tars import end, member, pax
from image_shards import encoded, tar

from cv3jax import cli
from cv3jax.commands import bench_serve
from data_pipeline import cli as data
from data_pipeline.records.records import RecordWriter, make_record

# clears the screen; sets the title; a command of C1; turns the direction; nothing; a line
EVIL = "x\x1b[2J\x1b]0;t\x07\x9b31m\u202ey\u2066\u200b\ufeff\r\n\x08cv3jax: done\x85z\u2028"
LONG = EVIL + "w" * 100_000
NAME = "x\x1b[2J\u202e\x9b31m\ncv3jax: done\r"  # of a file, which may have no /
HALF = EVIL + "\ud800"


def command(main, *argv):
    """Run a command as its program does, whatever ends it."""
    with contextlib.suppress(SystemExit):
        cli.run_command(main, [str(each) for each in argv])


def pictures(folder):
    """Write a folder of pictures whose names, captions and table are evil."""
    folder.mkdir()
    names = [f"{NAME}.png", f"ok{NAME}", f"{NAME}.txt", "a.png"]
    for name in names[::2]:
        (folder / name).write_bytes(EVIL.encode() if name.endswith("txt") else b"no picture")
    (folder / "a.png").write_bytes(encoded(1))
    (folder / "a.txt").write_text(EVIL)
    (folder / "b.png").write_bytes(encoded(2))
    (folder / "b.txt").write_text(LONG)
    (folder / os.fsdecode(b"\xff\x1b[2J.png")).write_bytes(encoded(2))
    (folder / f"{NAME}.jpg").symlink_to("/etc/passwd")
    return folder


def a_folder(at):
    command(data.main, "pack", "--input", pictures(at / "in"), "--out", at / "d")
    command(data.main, "inspect", "--input", at / "d")


def a_built_folder(at):
    flags = ("--max-bad-fraction", "1", "--json", "-")
    command(data.main, "build", "--input", pictures(at / NAME), "--out", at / "d", *flags)


def a_table(at):
    pictures(at / "in")
    lines = [{"file_name": f"{NAME}.png", "text": EVIL}, {"file_name": "../" + EVIL}, {EVIL: EVIL}]
    (at / "in" / "metadata.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))
    command(data.main, "pack", "--input", at / "in", "--out", at / "d")


def names_in_a_tar(at):
    fields = {"url": EVIL, "caption": HALF, EVIL: EVIL, "punsafe": EVIL}
    tar(at / "a.tar", [(f"{NAME}.png", b"x"), (f"{NAME}.json", json.dumps(fields).encode())])
    odd = pax(("path", f"{EVIL}.png")) + member("9.png", b"x") + member(b"\x1b[2J.txt", b"\xff")
    (at / "b.tar").write_bytes(end(odd + pax(("size", EVIL)) + member("9.png", b"x")))
    for flags in ((), ("--max-bad-fraction", "1", "--allow-unreadable-fields")):
        command(
            data.main, "build", "--input", at / "*.tar", "--out", at / "d", *flags, "--overwrite"
        )


def columns_of_a_parquet_file(at):
    table = {**rows(2), EVIL: ["a", EVIL], "caption": [EVIL, LONG], "url": [EVIL, None]}
    (at / "a.parquet").write_bytes(written({**table, "png": [b"x", b""]}))
    (at / "b.parquet").write_bytes(written({EVIL: [1]}))
    command(data.main, "build", "--input", at / "a.parquet", "--out", at / "d")
    command(data.main, "build", "--input", at / "b.parquet", "--out", at / "d")
    more = ("--metadata", at / "b.parquet", "--join-on", EVIL)
    command(data.main, "build", "--input", at / "a.parquet", "--out", at / "d", *more)


def records(at):
    with RecordWriter(at / "d", shards=1) as writer:
        for text in (EVIL, LONG):
            scores = {EVIL: EVIL}
            writer.write(
                make_record(encoded(1), text, key=text, recaption=text, url=text, scores=scores)
            )
    command(data.main, "inspect", "--input", at / "d")
    for name in ("dataset_info.json", "features.json"):
        said = json.loads((at / "d" / name).read_text())
        (at / "d" / name).write_text(json.dumps({**said, "name": EVIL, EVIL: EVIL, "splits": EVIL}))
        command(data.main, "inspect", "--input", at / "d")


def filters(at):
    (at / "f.yaml").write_text(f"{json.dumps(EVIL)}: {json.dumps(EVIL)}\n")
    (at / "b.txt").write_text(f"{EVIL} x\n")
    (at / "a.tar").write_bytes(end(member("a.png", encoded(1))))
    for flags in (("--filters", at / "f.yaml"), ("--blocked-urls", at / "b.txt"), ("--x", EVIL)):
        command(data.main, "build", "--input", at / "a.tar", "--out", at / "d", *flags)


def a_server(at):
    with RecordWriter(at / "d", shards=1) as writer:
        writer.write(make_record(encoded(1), "a", key=EVIL))
    (at / "t.json").write_text(json.dumps({"turns": ["what?"]}))
    status = EVIL.replace("\n", " ").replace("\r", " ")
    body = json.dumps({"error": {"message": LONG, "code": EVIL}})
    for answer in (
        raw_server.reply("404 No", body),
        raw_server.reply(f"500 {status}", HALF, f"X: {status}"),
        raw_server.reply("307 No", "", f"Location: /{status}"),
        raw_server.reply("200 OK", "{}", f"Content-Encoding: {status}"),
        raw_server.reply("200 OK", json.dumps({"choices": [{"message": {"content": EVIL}}]})),
        status.encode() + b"\r\n\r\n",
    ):
        with raw_server.running(lambda path, answer=answer: answer) as url:
            flags = ("--endpoint", f"{url}/v1", "--model", EVIL, "--retries", "0", "--overwrite")
            where = ("--input", at / "d", "--out", at / "o", "--dialogue", at / "t.json")
            command(data.main, "recaption", *where, *flags)
            command(bench_serve.main, "--url", url, "--num", "1", "--warm-up", "0", "--rate", "9")


PLACES = (
    a_folder,
    a_built_folder,
    a_table,
    names_in_a_tar,
    columns_of_a_parquet_file,
    records,
    filters,
    a_server,
)
