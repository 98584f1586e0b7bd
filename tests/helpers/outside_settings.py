"""Places of settings and models at which words from outside come in, and the commands there."""

import json
import logging
import struct
import sys
import warnings
import zipfile

import kept_files
import numpy as np
import safetensors.numpy
from altered_descriptions import content
from outside_words import EVIL, HALF, LONG, NAME, command
from PIL import Image, PngImagePlugin

from cv3jax.commands import convert, sample, serve, train
from cv3jax.sampling import metadata
from data_pipeline.io import library_words
from data_pipeline.io.errors import first_line
from data_pipeline.io.figures import tell_json
from data_pipeline.loading.tokenizer import load_tokenizer


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


PLACES = (
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
