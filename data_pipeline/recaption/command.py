"""New captions from a vision model behind any OpenAI-compatible endpoint (vLLM, SGLang, a hosted
API): questions about the image, the last of which merges the answers with the old caption. The old
caption stays, the new one becomes the record's `recaption`. A journal beside --out makes it
resumable: the same command goes on after a kill, and asks nothing twice that was answered.
docs/guides/recaption.md has the servers' commands and the template.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from data_pipeline.io.arguments import Parser, add_input
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import add_json
from data_pipeline.recaption.dialogue import DEFAULT, load_dialogue
from data_pipeline.recaption.settings import RecaptionSettings, flags
from data_pipeline.records import check_records

EXAMPLE = """cv3jax data recaption --input runs/photos --endpoint http://localhost:8000/v1 \\
      --model Qwen/Qwen2.5-VL-7B-Instruct --out runs/recaptioned"""
KEY = "OPENAI_API_KEY"


def parser() -> Parser:
    """Return the parser of `cv3jax data recaption`."""
    made = Parser(
        prog="cv3jax data recaption", description=__doc__, example=EXAMPLE, positional="--input"
    )
    add_input(made, "a directory of records")
    made.add_argument(
        "--endpoint", required=True, metavar="URL", help="the server, up to and with /v1"
    )
    made.add_argument("--model", required=True, metavar="NAME", help="as the server calls it")
    made.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="the new dataset; appears when complete",
    )
    made.add_argument(
        "--dialogue",
        type=Path,
        default=DEFAULT,
        metavar="FILE",
        help="a template of questions (default: the paper's way)",
    )
    for field in flags():
        text = field.metadata["help"]
        made.add_argument(
            f"--{field.name.replace('_', '-')}",
            type=field.metadata["kind"],
            default=field.default,
            metavar=field.metadata["metavar"],
            help=text if field.default is None else f"{text} (default: %(default)s)",
        )
    made.add_argument(
        "--triplets",
        type=Path,
        metavar="FILE",
        help="also write (image, old, new) there, as LLaVA's JSON",
    )
    made.add_argument(
        "--api-key-env",
        metavar="NAME",
        help=f"environment variable with the API key (default: {KEY}, if set)",
    )
    made.add_argument(
        "--retry-failed",
        action="store_true",
        help="ask again where the server failed, and replace the dataset",
    )
    made.add_argument(
        "--overwrite",
        action="store_true",
        help="replace --out; set aside a journal of another model or dialogue",
    )
    add_json(made)
    return made


def command(args: argparse.Namespace) -> dict[str, Any]:
    """Recaption, say why records lack a new caption, and return the figures."""
    settings = RecaptionSettings(
        endpoint=args.endpoint,
        model=args.model,
        key=os.environ.get(args.api_key_env or KEY) or None,
        dialogue=args.dialogue,
        **{field.name: getattr(args, field.name) for field in flags()},
    )
    if args.api_key_env and not os.environ.get(args.api_key_env):
        raise InputError(
            f"--api-key-env {args.api_key_env}: no such variable in the environment, or an"
            " empty one"
        )
    load_dialogue(args.dialogue)
    from data_pipeline.recaption.endpoint import parse_address

    parse_address(args.endpoint)
    check_records(args.input)
    # with the libraries that read and write records, which a wrong flag does without
    from data_pipeline.recaption.run import recaption

    report = recaption(
        args.input,
        args.out,
        settings,
        triplets=args.triplets,
        retry_failed=args.retry_failed,
        overwrite=args.overwrite,
    )
    tokens = report["tokens"]
    where = f", in {args.out}" if args.limit is None else " (--limit: no dataset was written)"
    print(
        f"{report['recaptioned']:,} of {report['records']:,} records have a new caption{where},"
        f" {report['seconds']} s"
    )
    print(
        f"{report['requests']:,} requests, {report['retries']:,} of them retries;"
        f" {tokens['prompt']:,} tokens in prompts, {tokens['completion']:,} in answers"
        + ("" if report["cost"] is None else f"; cost {report['cost']:.4g}")
    )
    for reason, count in sorted(report["reasons"].items(), key=lambda kv: -kv[1]):
        print(
            f"without a new caption {count:,}: {reason} (such as {report['examples'][reason][0]})"
        )
    return report
