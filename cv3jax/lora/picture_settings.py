"""What a fine-tune's recipe says of its folder of pictures, typed and checked without JAX."""

import dataclasses

from cv3jax.fields import SWITCH, TEXT, check, field, number, one_of, require, whole

CAPTIONS = ("auto", "txt", "folder")
MOST_REPEATS = 1000
_LINE = dataclasses.replace(
    TEXT,
    right="one line of at most 1000 characters",
    within=lambda text: len(text.splitlines()) <= 1 and len(text) <= 1000,
    outside=("two\nlines", 1001 * "x"),
)


@dataclasses.dataclass(frozen=True)
class PictureSettings:
    """How a folder of pictures becomes the records of a fine-tune."""

    repeats: int = field(
        "How often each picture occurs in an epoch, where its folder's name has no number.",
        whole(1, MOST_REPEATS),
        1,
    )
    caption_from: str = field(
        "Where captions come from: txt, the first line of the .txt beside a picture; folder, the"
        " name of its folder, such as 10_red_teapot; auto, txt in folders that have any .txt, and"
        " folder in others.",
        one_of(*CAPTIONS),
        "auto",
    )
    trigger: str = field(
        "Words put before each caption that does not begin with them; empty: none.", _LINE, ""
    )
    class_prompt: str = field(
        "Prompt of the class pictures, which keep what the cascade draws of the class (DreamBooth's"
        " prior preservation); empty: none.",
        _LINE,
        "",
    )
    class_pictures: int = field("How many class pictures are drawn.", whole(1, 100_000), 100)
    prior_weight: float = field(
        "Weight of the class pictures' loss beside that of the pictures.", number(0.01, 100), 1.0
    )
    cache: bool = field(
        "Whether latents and text features are computed once, into WORKDIR/features; random crops,"
        " flips and zooms rule out the latents.",
        SWITCH,
        True,
    )

    def __post_init__(self):
        """Raise InputError where a field breaks its rule."""
        check(self, "pictures")
        fine = not self.class_prompt or bool(self.class_prompt.strip())
        require(fine, "pictures.class_prompt", repr(self.class_prompt), "words, or empty")
        fine = not self.trigger or self.trigger == self.trigger.strip()
        require(fine, "pictures.trigger", repr(self.trigger), "without blanks around it")
