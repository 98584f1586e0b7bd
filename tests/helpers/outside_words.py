"""Places at which words from outside come in, each with commands that say something about them.

The words have escapes, control characters, marks of direction, line breaks and half characters.
"""

import contextlib
import json
import logging
import os
import struct
import sys
import warnings
import zipfile

import kept_files
import numpy as np
import raw_server
import safetensors.numpy
from altered_descriptions import content
from hostile_parquets import rows, written
from hostile_tars import end, member, pax
from image_shards import encoded, tar
from PIL import Image, PngImagePlugin

from cv3jax import cli
from cv3jax.commands import bench_serve, convert, sample, serve, train
from cv3jax.sampling import metadata
from data_pipeline import cli as data
from data_pipeline.io import library_words
from data_pipeline.io.errors import first_line
from data_pipeline.io.figures import tell_json
from data_pipeline.loading.tokenizer import load_tokenizer
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


def settings(at):
    command(train.main, f"--config={EVIL}", "--workdir", at / "w")
    command(train.main, "--config=base_512:tiny", f"--config.{EVIL}=1", "--workdir", at / "w")
    command(train.main, "--config=base_512:tiny", f"--config.optim.name={EVIL}", "--workdir", at)
    (at / f"{NAME}.py").write_text("raise ValueError('\\x1b[2J')\n")
    command(train.main, f"--config={at}/{NAME}.py", "--workdir", at / "w")


def prompts(at):
    lines = [{"prompt": "a", "name": EVIL}, {"prompt": LONG}, {"prompt": "a", EVIL: 1}, EVIL]
    lines += [{"prompt": "a", "seed": EVIL}]
    for line in lines:
        (at / "p.jsonl").write_text(json.dumps(line) + "\n")
        flags = ("--checkpoint", "scenes", "--prompts", at / "p.jsonl", "--out", at / "o")
        command(sample.main, *flags)


def a_cascade(at):
    for change in ({EVIL: 1}, {"stages": {EVIL: {}}}, {"format": EVIL}, {"vae": {EVIL: EVIL}}):
        (at / "cascade.json").write_text(json.dumps({**content(), **change}))
        command(sample.main, "--checkpoint", at, "--prompt", "a", "--out", at / "o")
    command(sample.main, "--checkpoint", f"{at}/{EVIL}", "--prompt", "a", "--out", at / "o")


def tensors(at):
    file = at / "u.safetensors"
    safetensors.numpy.save_file({EVIL: np.zeros(3), LONG[:5000]: np.ones(2)}, file, {EVIL: EVIL})
    command(convert.main, "--unet", file, "--out", at / "o")
    head = json.dumps({"a": {"dtype": EVIL, "shape": [1], "data_offsets": [0, 4]}}).encode()
    file.write_bytes(struct.pack("<Q", len(head)) + head + bytes(4))
    command(convert.main, "--unet", file, "--out", at / "o")
    (at / "SHA256SUMS").write_text(f"{'0' * 64}  {EVIL}\n")
    command(convert.main, "--unet", file, "--out", at / "o", "--sha256", f"{EVIL}=00")
    index = at / "x.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {EVIL: EVIL, "a": "../" + EVIL}}))
    command(convert.main, "--unet", index, "--out", at / "o")


def members_of_a_pt_file(at):
    for name, inside in (
        (f"{EVIL}/data.pkl", EVIL.encode()),
        ("a/data.pkl", b"\x80\x02c" + b"\x1b[2J\n\x9b\n."),
    ):
        with zipfile.ZipFile(at / "m.pt", "w") as file:
            file.writestr(name, inside)
            file.writestr("a/version", EVIL)
        command(convert.main, "--unet", at / "m.pt", "--out", at / "o")


def a_tokenizer(at):
    made = {"version": "1.0", "added_tokens": [], "model": {"type": "WordLevel", "unk_token": "u"}}
    made["model"]["vocab"] = {"u": 0, EVIL: 1}
    for change in (
        {},
        {"tokenizer_class": EVIL},
        {EVIL: EVIL},
        {"added_tokens_decoder": {EVIL: 1}},
    ):
        (at / "tokenizer.json").write_text(json.dumps(made))
        said = {"tokenizer_class": "PreTrainedTokenizerFast", "model_type": EVIL, **change}
        (at / "tokenizer_config.json").write_text(json.dumps(said))
        (at / "special_tokens_map.json").write_text(json.dumps({EVIL: EVIL}))
        command(lambda argv: load_tokenizer(str(at), 8))
    (at / "tokenizer.json").write_text(json.dumps({**made, "model": {"type": EVIL}}))
    command(lambda argv: load_tokenizer(str(at), 8))


def kept(at):
    """Give every kept file evil values and names."""
    for number, (file, read, value) in enumerate(
        {**kept_files.READERS, **kept_files.LINES}.values()
    ):
        place = at / str(number)
        for change in (
            {EVIL: EVIL},
            dict.fromkeys(value, EVIL),
            {name: {EVIL: [EVIL]} for name in value},
        ):
            path = place / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({**value, **change}) + "\n")
            command(lambda argv, read=read, place=place: read(place))


def a_picture_s_record(at):
    for name, text in (("cv3jax", EVIL), ("cv3jax", json.dumps({EVIL: EVIL})), (EVIL[:9], EVIL)):
        info = PngImagePlugin.PngInfo()
        info.add_itxt(name, text, lang=EVIL[:9], tkey=EVIL)
        info.add_text("parameters", text.encode("latin-1", "replace"), zip=True)
        Image.new("RGB", (8, 8)).save(at / f"{NAME}.png", pnginfo=info)
        flags = ("--from-png", at / f"{NAME}.png", "--out", at / "o", "--checkpoint", "scenes")
        command(sample.main, *flags)
        command(lambda argv: metadata.read_drawing(at / f"{NAME}.png"))


def keys_of_a_server(at):
    for line in (f"{EVIL} {'k' * 20}", f"a {EVIL}", f"a {'k' * 20} {EVIL}"):
        (at / "keys").write_text(line)
        command(serve.main, "--checkpoint", "scenes", "--workdir", at / "w", "--keys", at / "keys")
    command(serve.main, "--checkpoint", "scenes", "--workdir", at / "w", "--cors", EVIL)
    command(serve.main, "--checkpoint", "scenes", "--workdir", at / "w", "--public-url", EVIL)


def a_local_model(at):
    (at / "config.json").write_text(json.dumps({"model_type": EVIL, "architectures": [EVIL]}))
    text = EVIL.encode()
    for kind, value in ((8, struct.pack("<Q", len(text)) + text), (99, text)):
        head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", len(text)) + text
        (at / "m.gguf").write_bytes(head + struct.pack("<I", kind) + value)
        for place in (at, at / "m.gguf"):
            flags = ("--checkpoint", "scenes", "--prompt", "a", "--out", at / "o")
            command(sample.main, *flags, "--expand", place, "--expand-cache", at / "c")


def a_template(at):
    (at / "t.json").write_text(json.dumps({"request": EVIL, EVIL: EVIL}))
    flags = ("--expand", "http://127.0.0.1:9/v1", "--expand-template", at / "t.json")
    command(
        sample.main,
        "--checkpoint",
        "scenes",
        "--prompt",
        "a",
        "--out",
        at / "o",
        *flags,
        "--expand-model",
        EVIL,
    )
    command(
        sample.main, "--checkpoint", "scenes", "--prompt", "a", "--out", at / "o", "--expand", EVIL
    )


def warnings_and_logs(at):
    library_words.make_visible()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        library_words.make_visible()  # pytest collects warnings
        warnings.warn(HALF, UserWarning, stacklevel=1)
    log = logging.getLogger(f"of.{NAME}")
    log.error("%s", HALF)
    try:
        raise ValueError(HALF)
    except ValueError as e:
        log.exception("failed: %s", first_line(e))
        sys.excepthook(*sys.exc_info())


def figures(at):
    tell_json({EVIL: HALF})


PLACES = {
    f.__name__: f
    for f in (
        a_folder,
        a_built_folder,
        a_table,
        names_in_a_tar,
        columns_of_a_parquet_file,
        records,
        filters,
        a_server,
        settings,
        prompts,
        a_cascade,
        tensors,
        members_of_a_pt_file,
        a_tokenizer,
        kept,
        a_picture_s_record,
        keys_of_a_server,
        a_local_model,
        a_template,
        warnings_and_logs,
        figures,
    )
}
