"""Files of adapters that are wrong in one way each, with what is said of them."""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path

import adapters
import ml_dtypes
import numpy as np
from safetensors.numpy import save, save_file

from cv3jax.adapters import formats, keys, kohya, native
from cv3jax.adapters.naming import SIZES, Sizes
from cv3jax.checkpoints import cascades

STAGE = cascades.read_cascade("scenes")[1].stages["base"]
SIZES_OF = Sizes.of(STAGE)
GOOD = adapters.of_stage(STAGE, every=20)
NAME = next(name for name in GOOD.layers if GOOD.layers[name].down.ndim == 2)
CONV = next(name for name in GOOD.layers if GOOD.layers[name].down.ndim == 4)
KEY = "lora_unet_" + NAME.replace(".", "_")
Tensors = dict[str, np.ndarray]
Case = tuple[Callable[[Path], Path], str]


def tensors(format: str = "kohya") -> Tensors:
    made = {"kohya": kohya, "native": native}[format].write(GOOD)[0]
    return {name: value.copy() for name, value in made.items()}


def altered(
    change: Callable[[Tensors], object], said: str, metadata: dict | None = None, **more: str
) -> Case:
    """Return the case of a file whose tensors were changed. more: format."""

    def write(at: Path) -> Path:
        format = more.get("format", "kohya")
        made = tensors(format)
        change(made)
        header = {
            **GOOD.metadata,
            **({native.FORMAT: native.VERSION} if format == "native" else {}),
        }
        save_file(made, at / "a.safetensors", {**header, **(metadata or {})})
        return at / "a.safetensors"

    return write, said


def put(name: str, value: np.ndarray) -> Callable[[Tensors], object]:
    return lambda made: made.__setitem__(name, value)


def spoilt(name: str, value: float) -> Callable[[Tensors], object]:
    return lambda made: made[name].reshape(-1).__setitem__(1, value)


def renamed(old: str, new: str) -> Callable[[Tensors], object]:
    return lambda made: made.__setitem__(new, made.pop(old))


def written(data: bytes, name: str, said: str) -> Case:
    def write(at: Path) -> Path:
        (at / name).write_bytes(data)
        return at / name

    return write, said


def peft(change: Callable[[dict], object], said: str) -> Case:
    """Return the case of a folder of PEFT whose adapter_config.json was changed."""

    def write(at: Path) -> Path:
        formats.write(at / "peft", GOOD, "peft")
        file = at / "peft" / "adapter_config.json"
        config = json.loads(file.read_text())
        change(config)
        file.write_text(json.dumps(config))
        return at / "peft"

    return write, said


def peft_file(change: Callable[[Path], object], said: str) -> Case:
    """Return the case of a folder of PEFT whose files were changed."""

    def write(at: Path) -> Path:
        formats.write(at / "peft", GOOD, "peft")
        change(at / "peft")
        return at / "peft"

    return write, said


def _other(at: Path) -> Path:
    formats.write(at / "a.safetensors", adapters.adapter(), "kohya")
    return at / "a.safetensors"


def _sdxl(at: Path) -> Path:
    """Write what SDXL has and this model lacks: ten blocks in the middle."""
    key = "lora_unet_middle_block_1_transformer_blocks_9_attn1_to_q"
    ones = np.ones((2, 1280), np.float32)
    save_file({f"{key}.lora_down.weight": ones, f"{key}.lora_up.weight": ones.T.copy()}, at / "a.s")
    return at / "a.s"


DOWN, UP, ALPHA = (KEY + kohya.ENDS[kind] for kind in (keys.DOWN, keys.UP, keys.ALPHA))
SHAPE = GOOD.layers[NAME].shape
RANK = GOOD.layers[NAME].rank
ZEROS = np.zeros_like(GOOD.layers[NAME].up)
WHOLE = save(tensors(), GOOD.metadata)
DORA = KEY + kohya.ENDS[keys.MAGNITUDE]


def _header(**fields: object) -> bytes:
    text = json.dumps(fields).encode()
    return struct.pack("<Q", len(text)) + text


CASES: dict[str, Case] = {
    # the file
    "missing": (lambda at: at / "nope.safetensors", "there is no such file"),
    "empty file": written(b"", "a.safetensors", "it has 0 bytes, and the header is missing"),
    "truncated": written(WHOLE[:-100], "a.safetensors", "is damaged or not a safetensors file"),
    "header cut": written(WHOLE[:50], "a.safetensors", "its header has"),
    "longer": written(WHOLE + b"x" * 9, "a.safetensors", "is damaged or not a safetensors file"),
    "huge header": written(struct.pack("<Q", 2**60), "a.safetensors", "its header has"),
    "no JSON": written(struct.pack("<Q", 4) + b"abcd", "a.safetensors", "does not begin with a"),
    "nested header": written(
        struct.pack("<Q", 20_000) + b'{"a":' * 4000, "a.safetensors", "damaged or not a safe"
    ),
    "offsets": written(
        _header(a={"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}) + bytes(4),
        "a.safetensors",
        "is damaged or not a safetensors file",
    ),
    "unknown dtype": written(
        _header(a={"dtype": "X7", "shape": [4], "data_offsets": [0, 4]}) + bytes(4),
        "a.safetensors",
        "is damaged or not a safetensors file",
    ),
    "picture": written(
        b"\x89PNG\r\n\x1a\n" + bytes(99), "a.safetensors", "is damaged or not a safe"
    ),
    "pickle": written(pickle.dumps({"a": 1}), "a.safetensors", "is a pickle, which may run code"),
    "zip of torch": written(
        b"PK\x03\x04" + bytes(99), "a.safetensors", "is a pickle, which may run"
    ),
    ".bin": written(b"anything", "pytorch_lora_weights.bin", "is a pickle, which may run code"),
    ".pt": written(WHOLE, "a.pt", "is a pickle, which may run code"),
    "empty folder": (lambda at: at, "holds neither adapter_model.safetensors"),
    "folder of .bin": peft_file(
        lambda at: (at / "adapter_model.safetensors").rename(at / "adapter_model.bin"),
        "holds adapter_model.bin, a pickle",
    ),
    # keys
    "no tensor": altered(lambda made: made.clear(), "has no layer, so it would change nothing"),
    "unknown key": altered(
        put("lora_unet_x.wrong", ZEROS), "belong to no layer: lora_unet_x.wrong"
    ),
    "unknown module": altered(
        lambda made: [
            renamed(key, key.replace(KEY, f"{KEY}_x"))(made) for key in (DOWN, UP, ALPHA)
        ],
        f"was made for another model: the base has no {NAME}.x",
    ),
    "a model": altered(
        lambda made: (made.clear(), made.update({"conv_in.weight": ZEROS})), "is no adapter that"
    ),
    "text encoder": altered(
        put("lora_te1_text_model_encoder_layers_0_mlp_fc1.lora_up.weight", ZEROS),
        "also changes a text encoder, which is not the T5 of CogView3 (lora_te1_text_model",
    ),
    "LoHa": altered(put(f"{KEY}.hada_w1_a", ZEROS), "has LoHa, and only LoRA and DoRA are read"),
    "LoKr": altered(put(f"{KEY}.lokr_w1", ZEROS), "has LoKr, and only LoRA and DoRA are read"),
    "lora_mid": altered(put(f"{KEY}.lora_mid.weight", ZEROS), "a convolution in three parts"),
    "biases": altered(put(f"{KEY}.diff_b", ZEROS), "has whole differences of weights"),
    "no down": altered(lambda made: made.pop(DOWN), "has alpha, up, but no down"),
    "no up": altered(lambda made: made.pop(UP), "has alpha, down, but no up"),
    "mixed names": altered(
        put("lora_unet_mid_block_resnets_0_conv1.alpha", np.asarray(1, np.float32)),
        "mixes sgm's and diffusers' names",
    ),
    "no alpha": altered(
        lambda made: made.pop(f"{NAME}.lora_alpha"), "has no lora_alpha", format="native"
    ),
    # shapes and values
    "wrong rank": altered(
        lambda made: made.update({DOWN: np.ones((RANK + 1, SHAPE[1]), np.float32)}),
        f"down has rank {RANK + 1} and up has rank {RANK}",
    ),
    "transposed": altered(
        lambda made: made.update({DOWN: made[DOWN].T.copy(), UP: made[UP].T.copy()}), "has rank"
    ),
    "rank 0": altered(
        lambda made: made.update(
            {DOWN: np.ones((0, SHAPE[1]), np.float32), UP: np.ones((SHAPE[0], 0), np.float32)}
        ),
        "is empty",
    ),
    "one axis": altered(put(DOWN, np.ones(4, np.float32)), "are those of no matrix or convolution"),
    "no axis": altered(put(DOWN, np.ones((), np.float32)), "are those of no matrix or convolution"),
    "conv for a matrix": altered(
        lambda made: made.update(
            {DOWN: made[DOWN][..., None, None], UP: made[UP][..., None, None]}
        ),
        f"changes a weight of {[*SHAPE, 1, 1]}, but the base's is {[*SHAPE]}",
    ),
    "other width": altered(
        lambda made: made.update({DOWN: made[DOWN][:, 1:].copy()}),
        f"changes a weight of {[SHAPE[0], SHAPE[1] - 1]}, but the base's is {[*SHAPE]}",
    ),
    "NaN": altered(spoilt(DOWN, np.nan), f"{NAME}: 1 value of its down is NaN or infinite"),
    "infinite": altered(spoilt(UP, np.inf), f"{NAME}: 1 value of its up is NaN or infinite"),
    "alpha NaN": altered(put(ALPHA, np.asarray(np.nan, np.float32)), "its alpha is nan"),
    "alpha of two": altered(put(ALPHA, np.ones(2, np.float32)), "is [2], not one number"),
    "integers": altered(put(UP, ZEROS.astype(np.int32)), "its up is int32, but must be one of"),
    "all zero": altered(
        lambda made: [made[name].fill(0) for name in made if "lora_up" in name],
        "changes nothing: up, down or alpha of every layer is zero",
    ),
    "alpha 0": altered(
        lambda made: made.update({k: np.zeros((), np.float32) for k in made if "alpha" in k}),
        "changes nothing: up, down or alpha of every layer is zero",
    ),
    "DoRA by column": altered(
        put(DORA, np.ones((1, SHAPE[1]), np.float32)), "only one for each of"
    ),
    "DoRA of few": altered(put(DORA, np.ones((3, 1), np.float32)), "the DoRA scale of"),
    "DoRA NaN": altered(
        put(DORA, np.full((SHAPE[0], 1), np.nan, ml_dtypes.bfloat16)), "of its magnitude are NaN"
    ),
    # the header
    "stage": altered(lambda made: None, "in its header is 'vae'", {"cv3jax.stage": "vae"}),
    "another version": altered(
        lambda made: None, "has the format 'lora 2'", {native.FORMAT: "lora 2"}, format="native"
    ),
    "rsLoRA": altered(
        lambda made: None, "is 'yes': true or false", {native.RSLORA: "yes"}, format="native"
    ),
    "rsLoRA alphas": altered(lambda made: None, "has no alpha of", {kohya.RSLORA: "{}"}),
    "rsLoRA JSON": altered(lambda made: None, "in its header is damaged", {kohya.RSLORA: "["}),
    # another model's
    "another model's": (_other, "was made for another model"),
    "SDXL's": (_sdxl, "was made for another model: the base has no middle_block.1.transformer_b"),
    # PEFT's folder
    "no config": peft_file(
        lambda at: (at / "adapter_config.json").unlink(), "its alphas are in adapter_config.json"
    ),
    "config no JSON": peft_file(
        lambda at: (at / "adapter_config.json").write_text("{"),
        "adapter_config.json cannot be read",
    ),
    "config a list": peft_file(
        lambda at: (at / "adapter_config.json").write_text("[]"), "adapter_config.json is no object"
    ),
    "another type": peft(lambda c: c.update(peft_type="LOHA"), "peft_type is 'LOHA'"),
    "rank of config": peft(lambda c: c.update(rank_pattern={}, r=7), "the rank 7, but its tensors"),
    "alpha of config": peft(lambda c: c.update(lora_alpha="8"), "lora_alpha is 8, not a number"),
    "expression": peft(
        lambda c: c.update(alpha_pattern={"(a+)+b": 1}), "has the expression '(a+)+b'"
    ),
    "biases of PEFT": peft(lambda c: c.update(bias="all"), "bias is all, which is not read"),
    "modules to save": peft(
        lambda c: c.update(modules_to_save=["x"]), "modules_to_save is ['x'], which is not read"
    ),
    "PiSSA": peft(
        lambda c: c.update(init_lora_weights="pissa"), "which changed the base's weights"
    ),
    "use_dora": peft(lambda c: c.update(use_dora=True), "there is no lora_magnitude_vector of"),
}


def _diffusers(header: dict[str, str], said: str) -> Case:
    """Return the case of a file of diffusers with another header."""

    def write(at: Path) -> Path:
        from cv3jax.adapters import diffusers
        from cv3jax.adapters.naming import DIFFUSERS, named

        made, metadata = diffusers.write(named(GOOD, DIFFUSERS, None, "it"), "it")
        save_file(made, at / "a.safetensors", {**metadata, **header})
        return at / "a.safetensors"

    return write, said


CONFIG = "lora_adapter_metadata"
CASES["sizes"] = _diffusers({SIZES: "{"}, "cv3jax.unet in its header is damaged")
CASES["sizes of fields"] = _diffusers({SIZES: "{}"}, "cv3jax.unet in its header must have channels")
CASES["sizes huge"] = _diffusers(
    {SIZES: json.dumps({**json.loads(SIZES_OF.to_json()), "depth": [10**9, 1]})}, "depth of cv3jax"
)
CASES["config in the header"] = _diffusers({CONFIG: "{"}, f"{CONFIG} in its header is damaged")
CASES["config twice"] = _diffusers({CONFIG: '{"r": 1, "r": 2}'}, "'r' is given twice")
