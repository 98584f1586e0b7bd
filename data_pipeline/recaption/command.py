"""New captions from a vision model behind any OpenAI-compatible endpoint (vLLM, SGLang, a hosted
API): questions about the image, the last of which merges the answers with the old caption. The old
caption stays, the new one becomes the record's `recaption`. A journal beside --out makes it
resumable: the same command goes on after a kill, and asks nothing twice that was answered.
docs/recaption.md has the servers' commands and the template.
"""

import argparse
import math
import os
import sys
from pathlib import Path
from typing import Any

from data_pipeline.io.errors import InputError
from data_pipeline.recaption.dialogue import DEFAULT

KEY = "OPENAI_API_KEY"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", type=Path, metavar="DIR", help="a directory of records")
    parser.add_argument(
        "--endpoint", required=True, metavar="URL", help="the server, up to and with /v1"
    )
    parser.add_argument("--model", required=True, metavar="NAME", help="as the server calls it")
    parser.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="DIR",
        help="the new dataset; appears when complete",
    )
    parser.add_argument(
        "--dialogue",
        type=Path,
        default=DEFAULT,
        metavar="FILE",
        help="a template of questions (default: the paper's way)",
    )
    for name, default, metavar, text in (
        ("--concurrency", 32, "N", "dialogues at once"),
        ("--rate", None, "N", "requests a minute, at most (default: as many as the server takes)"),
        (
            "--tokens-per-minute",
            None,
            "N",
            "tokens a minute, at most, of prompts and answers together",
        ),
        ("--timeout", 120.0, "S", "seconds of one request"),
        ("--retries", 5, "N", "of a request, after errors that may pass"),
        ("--max-tokens", 400, "N", "of one answer"),
        ("--image-side", 1024, "PIXELS", "longest side of the images that are sent"),
        ("--price-in", None, "P", "of a million tokens of prompts, for the report"),
        ("--price-out", None, "P", "of a million tokens of answers"),
        ("--limit", None, "N", "ask for the first N records alone, and write no dataset"),
    ):
        kind = (
            int
            if name in ("--concurrency", "--retries", "--max-tokens", "--image-side", "--limit")
            else float
        )
        shown = text if default is None else f"{text} (default: %(default)s)"
        parser.add_argument(name, type=kind, default=default, metavar=metavar, help=shown)
    parser.add_argument(
        "--triplets",
        type=Path,
        metavar="FILE",
        help="also write (image, old, new) there, as LLaVA's JSON",
    )
    parser.add_argument(
        "--api-key-env",
        metavar="NAME",
        help=f"environment variable with the API key (default: {KEY}, if set)",
    )
    parser.add_argument(
        "--retry-failed",
        action="store_true",
        help="ask again where the server failed, and replace the dataset",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace --out; set aside a journal of another model or dialogue",
    )


def command(args: argparse.Namespace) -> dict[str, Any]:
    for name, least, most in (
        ("concurrency", 1, 1024),
        ("rate", 1e-3, 1e9),
        ("tokens_per_minute", 1, 1e12),
        ("timeout", 0.01, 3600),
        ("retries", 0, 100),
        ("max_tokens", 1, 100_000),
        ("image_side", 16, 8192),
        ("price_in", 0, 1e6),
        ("price_out", 0, 1e6),
        ("limit", 1, 10**12),
    ):
        value = getattr(args, name)
        if value is not None and not (math.isfinite(value) and least <= value <= most):
            raise InputError(
                f"--{name.replace('_', '-')} {value:g}: give a number in {least:g}..{most:g}"
            )
    if (args.price_in is None) != (args.price_out is None):
        raise InputError("--price-in and --price-out: give both, or neither")
    if args.api_key_env and not os.environ.get(args.api_key_env):
        raise InputError(
            f"--api-key-env {args.api_key_env}: no such variable in the environment, or an"
            " empty one"
        )
    try:
        from data_pipeline.recaption.run import StoppedError, recaption
    except ModuleNotFoundError as e:  # httpx
        raise InputError(
            f"recaption needs {e.name}, which is not installed: pip install 'cv3jax[data]'"
        ) from e
    try:
        report = recaption(
            args.data,
            args.out,
            endpoint=args.endpoint,
            model=args.model,
            key=os.environ.get(args.api_key_env or KEY) or None,
            dialogue=args.dialogue,
            concurrency=args.concurrency,
            rate=args.rate,
            tokens_per_minute=args.tokens_per_minute,
            timeout=args.timeout,
            retries=args.retries,
            max_tokens=args.max_tokens,
            image_side=args.image_side,
            prices=None if args.price_in is None else (args.price_in, args.price_out),
            limit=args.limit,
            triplets=args.triplets,
            retry_failed=args.retry_failed,
            overwrite=args.overwrite,
        )
    except StoppedError as e:
        print(f"cv3jax: {e}", file=sys.stderr)
        sys.exit(128 + e.signal)
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
