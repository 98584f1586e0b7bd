"""Ask a vision model for new captions.

The model is behind any OpenAI-compatible endpoint (vLLM, SGLang, a hosted API). It is asked
questions about each image; the last one merges the answers with the old caption. The old caption
stays, and the new one becomes the record's `recaption`. A journal beside --out makes the command
resumable: after a kill, the same command continues and repeats no question that was answered.
docs/guides/recaption.md has the servers' commands and the template.
"""

import argparse
import os
from pathlib import Path
from typing import Any

from data_pipeline.chat.key_variable import key_of
from data_pipeline.io.arguments import Parser, stored
from data_pipeline.io.figures import add_json
from data_pipeline.io.objects.outputs import check_out
from data_pipeline.io.objects.store import address_of
from data_pipeline.io.shares import Share, given_share, parse_share
from data_pipeline.io.terminal import tell, visible
from data_pipeline.recaption.dialogue import DEFAULT, load_dialogue
from data_pipeline.recaption.settings import RecaptionSettings, flags
from data_pipeline.records import check_records

EXAMPLE = """cv3jax data recaption --input runs/photos --endpoint http://localhost:8000/v1 \\
      --model Qwen/Qwen2.5-VL-7B-Instruct --out runs/recaptioned
  cv3jax data recaption --input s3://bucket/photos --endpoint http://localhost:8000/v1 \\
      --model Qwen/Qwen2.5-VL-7B-Instruct --part 0/4 --out s3://bucket/recaptioned"""
KEY = "OPENAI_API_KEY"


def parser() -> Parser:
    """Return the parser of `cv3jax data recaption`."""
    made = Parser(
        prog="cv3jax data recaption", description=__doc__, example=EXAMPLE, positional="--input"
    )
    made.add_argument(
        "--input",
        type=stored,
        required=True,
        metavar="DIR",
        help="a directory of records, or an address: s3://bucket/data or gs://bucket/data",
    )
    made.add_argument(
        "--endpoint", required=True, metavar="URL", help="the server's address, including /v1"
    )
    made.add_argument(
        "--model", required=True, metavar="NAME", help="the model's name on the server"
    )
    made.add_argument(
        "--out",
        type=stored,
        required=True,
        metavar="DIR",
        help="the new dataset's directory, or an address: s3://bucket/data or gs://bucket/data; it"
        " appears when the dataset is complete",
    )
    made.add_argument(
        "--dialogue",
        type=Path,
        default=DEFAULT,
        metavar="FILE",
        help="a template of questions (default: like the paper's)",
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
        help="also write (image, old caption, new caption) there, in LLaVA's JSON format",
    )
    made.add_argument(
        "--part",
        metavar="I/N",
        help="ask about one share of the shards, such as 0/4; N processes, each with its own I and"
        " the same --out, make the dataset together (default: from Slurm or JAX_PROCESS_ID)",
    )
    made.add_argument(
        "--api-key-env",
        metavar="NAME",
        help=f"environment variable with the API key (default: {KEY}, if set)",
    )
    made.add_argument(
        "--retry-failed",
        action="store_true",
        help="repeat the questions at which the server failed, and replace the dataset",
    )
    made.add_argument(
        "--overwrite",
        action="store_true",
        help="replace --out; set aside a journal of another model or dialogue",
    )
    add_json(made)
    return made


def command(args: argparse.Namespace) -> dict[str, Any]:
    """Recaption, print why records lack a new caption, and return the figures."""
    key = os.environ.get(KEY) or None
    if args.api_key_env:
        key = key_of("--api-key-env", args.api_key_env)
    settings = RecaptionSettings(
        endpoint=args.endpoint,
        model=args.model,
        key=key,
        dialogue=args.dialogue,
        **{field.name: getattr(args, field.name) for field in flags()},
    )
    share = parse_share(args.part) if args.part else given_share() or Share(0, 1)
    load_dialogue(args.dialogue)
    from data_pipeline.chat.endpoint import parse_address

    parse_address(args.endpoint)
    if address_of(args.input) is None:
        check_records(args.input)
    if address_of(args.out) is not None:
        check_out(args.out)
    # this imports the libraries that read and write records, which a wrong flag does not need
    from data_pipeline.recaption.stored import recaption_any

    report = recaption_any(
        args.input,
        args.out,
        settings,
        triplets=args.triplets,
        retry_failed=args.retry_failed,
        overwrite=args.overwrite,
        share=share,
    )
    tokens = report["tokens"]
    out = address_of(args.out) or args.out
    where = f", in {out}" if args.limit is None else " (--limit: no dataset was written)"
    if lacking := report.get("lacking"):
        others = ", ".join(map(str, lacking[:10])) + (", …" if len(lacking) > 10 else "")
        where = f" (part {share.index} of {share.count}; {out} appears after {others})"
    tell(
        f"{report['recaptioned']:,} of {report['records']:,} records have a new caption{where},"
        f" {report['seconds']} s"
    )
    tell(
        f"{report['requests']:,} requests, {report['retries']:,} of them retries;"
        f" {tokens['prompt']:,} tokens in prompts, {tokens['completion']:,} in answers"
        + ("" if report["cost"] is None else f"; cost {report['cost']:.4g}")
    )
    for reason, count in sorted(report["reasons"].items(), key=lambda kv: -kv[1]):
        example = visible(report["examples"][reason][0])
        tell(f"without a new caption {count:,}: {reason} (such as {example})")
    return report
