"""Test that --help and wrong arguments import neither JAX nor the libraries of a run."""

import subprocess
import sys

import subprocesses

# each is refused, in one line that contains what is after the bar
MISTAKES = """
trian | did you mean train
data pakc | did you mean data pack
sample --chekpoint scenes --prompt x --out w | did you mean --checkpoint
sample --checkpoint nope --prompt x --out w | nope is not a checkpoint
sample --checkpoint scenes --prompt x --out w --attention fast | invalid choice: 'fast'
sample --checkpoint scenes --prompt x --out w --mesh rows=2 | --mesh rows=2
sample --checkpoint scenes --prompt x --out w --size 65 | size 65
sample --checkpoint scenes --prompt x --out w --steps 3 | this stage was distilled to 4
sample --checkpoint scenes --prompt x --out w --image nope.png | --image nope.png
sample --checkpoint scenes --prompts nope --out w | --prompts nope
sample --checkpoint scenes --prompt x --out w --expand nope | --expand nope: give a server
serve --checkpoint nope | nope is not a checkpoint
serve --checkpoint scenes --size 65 | size 65
serve --checkpoint scenes --port 65536 | --port 65536
serve --checkpoint scenes --max-wait 0 | --max-wait 0
serve --checkpoint scenes --cors example.org | --cors example.org
serve --checkpoint scenes --keys nope | --keys nope
serve --checkpoint scenes --mesh rows=2 | --mesh rows=2
bench-serve | give --url of a server that runs, or --checkpoint
bench-serve --url localhost:8000 | --url localhost:8000
bench-serve --url http://localhost:1 --rate 0 | --rate 0
bench-serve --url http://localhost:1 --mix 4+1 | --mix 4+1
bench-serve --url http://localhost:1 --size 64 | --size goes with --checkpoint
bench-serve --checkpoint nope | nope is not a checkpoint
judge-people serve --a . --b . --prompts nope --votes v | --prompts nope
judge-people serve --a nope --b nope --prompts nope --votes v | --a nope: there is no such folder
judge-people serve --a nope --b nope --prompts nope --votes v --port 65536 | --port 65536
judge-people analyse --votes nope | --votes nope: No such file
judge-people analyse --votes {file} | no SQLite file
judge-people analyse --votes nope --level 1 | --level 1
judge-people export --votes nope --out w --exclude-above 2 | --exclude-above 2
judge-people plan --num-prompts 9 --num-raters 0 | --num-raters 0
judge-people plan --num-prompts 9 --num-raters 2 --rate 0.4 | --rate 0.4
judge-people | takes serve, analyse, plan, export
evaluate --checkpoint scenes --prompts scenes --out w | give --metrics
evaluate --checkpoint scenes --prompts scenes --metrics nope --out w | no metric 'nope'
evaluate --checkpoint scenes --prompts nope --metrics judge --out w | --prompts nope
evaluate --checkpoint scenes --prompts scenes --metrics judge --steps 3 --out w | distilled to 4
evaluate --images nope --prompts scenes --metrics judge --out w | --images nope
evaluate --compare nope nope --out w | --out does not go with --compare
ablate --config=nope --out w | unknown recipe 'nope'
ablate --config=scenes_ablations --out w --draws 1 | --draws 1: must be 200
ablate --config=scenes_ablations --out w --groups nope | no group 'nope'; give some of steps; samp
ablate --config=scenes_ablations --out w --config.limt=3 | nearest one is 'limit'
ablate --config=scenes_ablations --out w --config.base.steps=3 | the sweep sets this field itself
upscale --checkpoint scenes --image {file} --prompt x --out w | test_import_cost.py: not a readable
sample --checkpoint scenes --prompt x --out w --lora nope | --lora nope: there is no such file
upscale --checkpoint scenes --image {file} --prompt x --out w --lora nope | --lora nope: there is no
lora | takes merge, extract, inspect, compare, convert
lora merge --checkpoint scenes --lora {file}:0 --out w | every --lora has the weight 0
lora merge --checkpoint scenes --lora {file}:101 --out w | the weight must be -100..100
lora extract --checkpoint nope --original nope --stage base --out w.safetensors | nope is not a chec
lora extract --checkpoint a --original b --stage base --rank 0 --out w.safetensors | --rank 0
lora inspect --lora nope | --lora nope: there is no such file
lora compare --lora {file} | 1 --lora: give 2
lora convert --lora {file} --to kohya --out w | give a name that ends with .safetensors
train --config=scenes_vea --workdir w | unknown recipe 'scenes_vea'
train --config=scenes_vae:nope --workdir w | unknown variant 'nope'
train --config=scenes_vae --workdir w --config.optim.lrr=1 | lrr
train --config=scenes_vae --workdir w --config.optim.lr=fast | optim.lr
train --config=scenes_vae --workdir w --config.optim.lr=-1.0 | config.optim.lr = -1.0
train --config=scenes_base --workdir w --config.sample.form=ode | config.sample.form = ode
train --config=scenes_base --workdir w --config.model.remat=some | config.model.remat = some
train --config=scenes_vae --workdir w --config.profile.steps=9:1 | config.profile.steps
train --config=scenes_vae --workdir w --config.data.path=nope | no records at nope
train --config=scenes_base --workdir w --config.cascade=nope | nope is not a checkpoint
train --config=scenes_vae --workdir w --num-processes 2 | must be given together with
finetune --config=scenes_base --pictures . --checkpoint scenes --workdir w | trains a whole stage
finetune --config=scenes_lora --pictures nope --checkpoint scenes --workdir w | nope is no folder
finetune --config=scene_lora --pictures . --checkpoint x --workdir w | (nearest: scenes_lora)
finetune --config=scenes_lora --pictures . --checkpoint scenes --workdir w | has no pictures
finetune --config=scenes_lora --pictures . --checkpoint nope --workdir w | nope is not a checkpoint
train --config=scenes_lora --workdir w --config.lora.rank=0 | config.lora.rank = 0
train --config=scenes_lora --workdir w --config.lora.targets= | config.lora.targets
distill --config=scenes_base --workdir w | the recipe has no section distill
distill --config=distill_base --workdir w --config.distill.target=fog | config.distill.target
config nope | unknown recipe 'nope'
config scenes_distill_base --config.distill.rounds=() | config.distill.rounds = ()
config nope | unknown recipe 'nope'
config scenes_vae --config.optim.lrr=1 | lrr
compile --config=nope --topology v5e:2x2 | unknown recipe 'nope'
compile --config=base_256 --topology v9:1 | unknown chip 'v9'
ema nope --sigma-rel 0.08 --out w | WORKDIR nope: there is no such directory
ema . --sigma-rel 0.4 --out w | --sigma-rel 0.4
status nope | WORKDIR nope: there is no such directory
status . | has no run
status . --watch 0 | --watch 0: must be 1 or more
plan --topology v5e:2x2 --recipes nope | unknown recipe 'nope'
plan --topology v9:1 | unknown chip 'v9'
convert --base nope --out w | --base nope
convert --checkpoint nope --to sat --out w | nope is not a checkpoint
convert --unet . --guidance x --out w | --guidance
quickstart --workdir w --seed=-1 | --seed -1
data pack --input nope --out w | no source at nope
data inspect --input nope | no records at nope
data scenes --num 0 --out w | num = 0
data build --input nope --out w | --input nope
data build --input nope --out w --min-sid 256 | did you mean --min-side
data build --input nope --out w --direct_workers 2 | unknown flag --direct_workers
data recaption --input nope --endpoint x --model m --out w | --endpoint 'x'
data recaption --input nope --endpoint http://x/v1 --model m --out w | no records at nope
data encode --config=base_256 --input nope --checkpoint scenes --out w | no records at nope
"""
# one process after the other would take a second each: what one command imported, the next has too
PROGRAM = """
import contextlib, io, sys
from cv3jax import cli

MISTAKES = sys.argv[1]
HEAVY = (
    "jax", "flax", "optax", "orbax", "grain", "tensorflow", "tensorflow_datasets", "apache_beam",
    "pyarrow", "transformers", "tensorboardX", "matplotlib", "scipy", "torch",
)

def call(line):
    code, sys.argv = 0, ["cv3jax", *line.split()]
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            cli.main()
        except SystemExit as e:
            code = e.code
    loaded = [name for name in HEAVY if name in sys.modules]
    assert not loaded, (line, loaded)
    return code, out.getvalue(), err.getvalue()

asked = ["", "data", *cli.modules()]
for words in asked:
    code, out, _ = call(f"{words} --help")
    assert code == 0 and "usage: cv3jax" in out, (words, code)
mistakes = [line.split(" | ") for line in MISTAKES.strip().splitlines()]
for line, said in mistakes:
    code, out, err = call(line)
    fine = code == 2 and not out and err.count(chr(10)) == 1 and said in err
    assert fine, (line, code, out, err)

import jax
print(len(asked), len(mistakes), jax.config.jax_platforms, jax.config.jax_compilation_cache_dir)
"""


def test_help_and_mistakes_import_neither_jax_nor_what_a_run_needs(tmp_path):
    """The settings that commands make for JAX still hold when it is imported later."""
    environment = subprocesses.environment(HOME=str(tmp_path))
    del environment["JAX_COMPILATION_CACHE_DIR"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, MISTAKES.replace("{file}", __file__)],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    helps, mistakes, *set_for_jax = done.stdout.split()
    assert int(helps) >= 14
    assert int(mistakes) == len(MISTAKES.strip().splitlines())
    assert set_for_jax == ["cpu", f"{tmp_path}/.cache/cv3jax/xla"]
    assert list(tmp_path.iterdir()) == []


# what a cascade of our own is drawn with, up to its first program
LOADING = """
import sys
from cv3jax.commands import sample
from cv3jax.distributed.backend import loading
with loading():
    from cv3jax.sampling.few import Request, sample_few
    from cv3jax.cascade.pipeline import load
cascade = load("scenes")
cascade.tokenize(["a red circle"])
needless = ("transformers", "huggingface_hub", "orbax", "torch", "scipy",
            "matplotlib", "tensorboardX", "grain", "wandb", "optax", "pyarrow")
print([name for name in needless if name in sys.modules], len(sys.modules))
"""
MOST = 1300  # modules; 1,176 were counted in November 2026


def test_a_first_picture_waits_for_few_imports():
    """Libraries for other weights, and for training, are imported by those who need them."""
    done = subprocess.run(
        [sys.executable, "-c", LOADING],
        env=subprocesses.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    needless, _, count = done.stdout.rpartition(" ")
    assert needless == "[]"
    assert int(count) < MOST
