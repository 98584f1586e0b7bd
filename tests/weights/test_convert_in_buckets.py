"""Test `cv3jax convert` of files in a bucket, and into one."""

import golden_models
import pytest
from object_servers import BUCKET, environment, serving
from released_files import FLAGS, same_bits, stored

from cv3jax import cli
from cv3jax.checkpoints import cascades
from cv3jax.commands import convert
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects.store import Store

AT = f"s3://{BUCKET}/weights"


@pytest.fixture(scope="module", autouse=True)
def server(tmp_path_factory):
    """Serve the micro preset's autoencoder and text encoder, as another program uploads them."""
    folder = golden_models.files("micro")
    with serving("s3") as port, pytest.MonkeyPatch.context() as patch:
        for name, value in environment("s3", port).items():
            patch.setenv(name, value)
        patch.setenv("CV3JAX_STORES", str(tmp_path_factory.mktemp("stores")))
        for path in (folder / "vae.safetensors", *(folder / "t5").iterdir()):
            Store(AT).upload(path, str(path.relative_to(folder)))
        yield


def test_encoders_come_from_a_bucket_and_go_into_one(capsys):
    argv = ["--vae", f"{AT}/vae.safetensors", "--t5", f"{AT}/t5", "--out", f"{AT}/encoders"]
    convert.main(argv)
    assert f"--config.cascade={AT}/encoders" in capsys.readouterr().err
    directory, description = cascades.read_cascade(f"{AT}/encoders")
    whole = golden_models.converted("micro")
    assert description.parts == ("vae", "t5")
    for part in description.parts:
        assert same_bits(stored(directory, part), stored(whole, part))
    with pytest.raises(InputError, match=f"--out {AT}/encoders already holds something; give ano"):
        convert.main(argv)
    convert.main(
        ["--checkpoint", f"{AT}/encoders", "--to", "safetensors", "--out", f"{AT}/exported"]
    )
    names = Store(f"{AT}/exported").sizes("")
    assert any(name.endswith("vae.safetensors") for name in names), sorted(names)


@pytest.mark.parametrize("flag", ["--vae", "--t5", "--base"])
def test_a_wrong_address_is_one_line_and_nothing_is_written(flag, capfd):
    argv = [flag, f"{AT}/none", "--out", f"{AT}/new", *FLAGS * (flag == "--base")]
    with pytest.raises(SystemExit) as ended:
        cli.run_command(convert.main, argv)
    said = capfd.readouterr().err
    assert ended.value.code == 2
    assert said == (
        f"cv3jax: {flag} {AT}/none: there is no such object, and no folder; check the address\n"
    )
    assert not Store(f"{AT}/new").sizes("")
