"""Requests and tokens a second through the chat backend, against the endpoint's own limit.

The endpoint is the tests' scripted server in a process of its own: it waits as a model would, then
says a fixed reply. Its own limit is what a bare client that does nothing but post the same bytes
gets out of it with as many requests in flight.

    PYTHONPATH=. .venv/bin/python deploy/bench/chat.py > deploy/bench/DATE-chat.md
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from time import perf_counter, process_time, sleep
from typing import Any

import aiohttp
import numpy as np
from measure import header, quiet, scratch, spread

from fakes.chat_server import ChatServer
from schemas.records import Image
from stages.backends.chat.openai import OpenAIChatSettings
from stages.base import Device
from stages.language.chat import Message, Reply, Request, Sampling
from stages.language.prompting import Prompt
from stages.language.votes import EditFindings
from stages.pixels import encode_jpeg

IN_FLIGHT = (1, 16, 128)
REPLY = {
    "reason": "The backpack is red in the first image and grey in the second. " * 4,
    "change_made": "yes",
    "rest_kept": "yes",
    "a_of_first": "yes",
    "a_of_second": "no",
    "b_of_first": "no",
    "b_of_second": "yes",
}


def serve(delay_s: float, pipe: Any) -> None:
    """The endpoint; ends when the pipe closes."""
    with ChatServer(lambda _: REPLY, delay_s=delay_s) as server:
        pipe.send(server.url)
        while True:
            try:
                pipe.recv()
            except EOFError:
                return
            pipe.send(len(server.payloads))
            server.payloads.clear()
            server.headers.clear()


@contextmanager
def endpoint(delay_s: float) -> Iterator[tuple[str, Any]]:
    """The address of an endpoint, and how to ask what it was asked since the last time."""
    context = multiprocessing.get_context("spawn")
    mine, other = context.Pipe()
    process = context.Process(target=serve, args=(delay_s, other), daemon=True)
    process.start()
    other.close()
    url = mine.recv()

    def num_requests() -> int:
        mine.send(None)
        return int(mine.recv())

    try:
        yield url, num_requests
    finally:
        mine.close()
        process.join(10)


def requests(num: int) -> list[Request[EditFindings]]:
    """Checks of a pair, each with another seed; two images of 512 px."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (32, 32, 3), np.uint8).repeat(16, 0).repeat(16, 1)
    one, two = encode_jpeg(noise), encode_jpeg(noise[:, ::-1].copy())
    prompt = Prompt("verify_edit")
    texts = {"instruction": "Make the red backpack grey.", "target": "red backpack",
             "replacement": "grey backpack", "chosen": "A red backpack is on the bench.",
             "counterfactual": "A grey backpack is on the bench."}  # fmt: skip
    images: dict[str, str | Image | None] = {"chosen_image": one, "rejected_image": two}
    messages: tuple[Message, ...] = prompt.messages({**texts, **images})
    return [Request(messages, EditFindings, Sampling(0.7), seed) for seed in range(num)]


@dataclass
class Took:
    """What a number of requests cost."""

    num: int
    wall_s: float
    cpu_ms: float

    @property
    def rate(self) -> float:
        """Requests a second."""
        return self.num / self.wall_s


@contextmanager
def timed(num: int, into: list[Took]) -> Iterator[None]:
    """Times the block, on the wall and in this process's CPU."""
    wall, cpu = perf_counter(), process_time()
    yield
    into.append(Took(num, perf_counter() - wall, 1000 * (process_time() - cpu) / num))


async def bare(url: str, bodies: list[bytes], in_flight: int, into: list[Took]) -> None:
    """A bare client posts all bodies."""
    left = iter(bodies)
    connector = aiohttp.TCPConnector(limit=in_flight)
    async with aiohttp.ClientSession(connector=connector) as session:

        async def worker() -> None:
            for body in left:
                headers = {"Content-Type": "application/json"}
                async with session.post(
                    f"{url}/chat/completions", data=body, headers=headers
                ) as got:
                    json.loads(await got.read())

        with timed(len(bodies), into):
            await asyncio.gather(*(worker() for _ in range(in_flight)))


def ours(url: str, asked: list[Request[EditFindings]], into: list[Took], **settings: Any) -> None:
    """The backend asks all requests."""
    chat = OpenAIChatSettings(base_url=url, **settings).load(Device())
    try:
        with timed(len(asked), into):
            results = chat.chat(asked)
        assert all(isinstance(result, Reply) for result in results)
    finally:
        chat.close()


def main() -> None:
    """Print tables."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--delay-s", type=float, default=0.2)
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    quiet()
    print(header("Chat: requests and tokens a second"))
    asked = requests(1024)
    chat = OpenAIChatSettings()
    bodies = [json.dumps(chat._payload(request)).encode() for request in asked]  # noqa: SLF001
    tokens = len(json.dumps(REPLY)) // 4
    print(
        f"Requests with two images, {len(bodies[0]) / 1000:.0f} KB each; the endpoint waits "
        f"{args.delay_s:g} s and says {tokens} tokens. Median of {args.runs} runs (range), load "
        f"average {os.getloadavg()[0]:.1f} at the start. `ideal` is requests in flight by "
        "seconds of waiting; `bare` a client that posts ready bytes and parses the reply; `ours` "
        "builds, hashes, checks and counts as well.\n"
    )
    print("| in flight | requests | ideal /s | bare /s | ours /s | ours / bare | ours tokens/s |"
          " CPU ms a request, bare | ours |")  # fmt: skip
    print("|---" * 9 + "|")
    with endpoint(args.delay_s) as (url, num_requests):
        ours(url, asked[:8], [])
        for in_flight in IN_FLIGHT:
            num = min(1024, max(24, in_flight * 8))
            theirs, own = list[Took](), list[Took]()
            for _ in range(args.runs):
                asyncio.run(bare(url, bodies[:num], in_flight, theirs))
                ours(url, asked[:num], own, concurrency=in_flight)
            ratios = [o.rate / t.rate for o, t in zip(own, theirs, strict=True)]
            print(
                f"| {in_flight} | {num} | {in_flight / args.delay_s:.0f} | "
                f"{spread([t.rate for t in theirs])} | {spread([o.rate for o in own])} | "
                f"{spread(ratios, 2)} | {spread([o.rate * tokens for o in own], 0)} | "
                f"{spread([t.cpu_ms for t in theirs])} | {spread([o.cpu_ms for o in own])} |",
                flush=True,
            )
        print("\nThe same 1,024 requests with a cache on this disk, 128 in flight:\n")
        print("| pass | requests that reached the endpoint | replies/s |")
        print("|---|---|---|")
        with scratch() as folder:
            for name in ("first", "rerun"):
                sleep(0.1)
                num_requests()
                took: list[Took] = []
                ours(url, asked, took, concurrency=128, cache=str(folder))
                print(f"| {name} | {num_requests()} | {took[0].rate:.0f} |", flush=True)
    print(f"\nLoad average at the end: {os.getloadavg()[0]:.1f}.")


if __name__ == "__main__":
    main()
