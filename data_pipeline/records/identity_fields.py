"""The fields of a feature cache's encoded.json that are used as they stand."""

from data_pipeline.io.kept_fields import (
    Table,
    anything,
    number,
    one_of,
    section,
    several,
    text,
    whole,
)

_SIDE = whole("Length of an array along an axis.", 1, 2**20)
_TYPES = ("float32", "float16", "bfloat16")
_RECORDS: Table = {
    "lengths": several("Records of each shard.", whole("Records.", 0, 2**40), 1, 2**24),
}
_VIEW: Table = {
    "image_size": whole("Side of the encoded pictures in pixels.", 1, 16_384),
    "zoom": number("Least zoom of the crops.", 0, 1e6),
    "crop_grid": anything("Positions of the crops; compared with the run's."),
}
_LATENTS: Table = {
    "dtype": one_of("Type in which they are stored.", *_TYPES),
    "shape": several("Height, width, channels.", _SIDE, 3, 3),
    "low": one_of("Whether those of the blurred picture are there.", True, False),
    "computed": text("Type in which the autoencoder computed."),
    "vae": text("Hash of the autoencoder."),
}
_TEXT: Table = {
    "dtype": one_of("Type in which the features are stored.", *_TYPES, "int8"),
    "shape": several("Tokens, width.", _SIDE, 2, 2),
    "computed": text("Type in which the text encoder computed."),
    "t5": text("Hash of the text encoder."),
    "captions": anything("Hash of the captions; compared with that of the records."),
}
IDENTITY: Table = {
    "records": section("The records that were encoded.", _RECORDS),
    "view": section("Which part of a picture was encoded.", _VIEW, none=True),
    "latents": section("The latents; null: none.", _LATENTS, none=True),
    "text": section("The text features; null: none.", _TEXT, none=True),
}
